"""The words that packs carry, per language.

Belongs here: titles, headers, nutrient names and filler words. Does not belong here: numbers
(`nutrients`) and how words are laid out (`tables`, `objects`).
"""

from __future__ import annotations

from dataclasses import dataclass

NUTRIENTS = ("energy", "fat", "saturates", "carbohydrate", "sugars", "fibre", "protein", "salt")


@dataclass(frozen=True)
class Language:
    """One language's pack vocabulary; `nutrients` follows the order of `NUTRIENTS`."""

    code: str
    decimal: str
    titles: tuple[str, ...]
    per_100: str
    per_portion: str
    nutrients: tuple[str, ...]
    ingredients_heading: str
    recipe_heading: str
    words: tuple[str, ...]


def _language(code: str, decimal: str, titles: str, per: str, nutrients: str, heads: str, words: str) -> Language:
    """A language from "/"-separated lists."""
    per_100, per_portion = per.split("/")
    ingredients, recipe = heads.split("/")
    return Language(
        code=code,
        decimal=decimal,
        titles=tuple(titles.split("/")),
        per_100=per_100,
        per_portion=per_portion,
        nutrients=tuple(nutrients.split("/")),
        ingredients_heading=ingredients,
        recipe_heading=recipe,
        words=tuple(words.split()),
    )


ENGLISH = _language(
    "en",
    ".",
    "Nutrition Information/Nutrition/Typical values/NUTRITION INFORMATION/Nutritional values",
    "per 100 g/per serving",
    "Energy/Fat/of which saturates/Carbohydrate/of which sugars/Fibre/Protein/Salt",
    "Ingredients:/Cooking instructions",
    "sugar wheat flour water salt palm oil cocoa milk powder whey soya lecithin emulsifier contains "
    "nuts may traces of store in a cool dry place best before see lid natural flavouring starch acid "
    "citric",
)
GERMAN = _language(
    "de",
    ",",
    "Nährwerte/Nährwertangaben/Durchschnittliche Nährwerte/Nährwertinformation",
    "pro 100 g/pro Portion",
    "Brennwert/Fett/davon gesättigte Fettsäuren/Kohlenhydrate/davon Zucker/Ballaststoffe/Eiweiß/Salz",
    "Zutaten:/Zubereitung",
    "Zucker Weizenmehl Wasser Speisesalz Palmöl Kakaomasse Vollmilchpulver Süßmolkenpulver Emulgator "
    "Lecithine Kann Spuren von Nüssen enthalten kühl und trocken lagern mindestens haltbar bis siehe "
    "Deckel Aroma Stärke",
)
FRENCH = _language(
    "fr",
    ",",
    "Valeurs nutritionnelles/Informations nutritionnelles/Déclaration nutritionnelle/Valeurs nutritionnelles moyennes",
    "pour 100 g/par portion",
    "Énergie/Matières grasses/dont acides gras saturés/Glucides/dont sucres/Fibres alimentaires/Protéines/Sel",
    "Ingrédients :/Préparation",
    "sucre farine de blé eau sel huile de palme pâte de cacao lait écrémé poudre lactosérum émulsifiant "
    "lécithine peut contenir des traces à conserver au sec et frais à consommer avant voir couvercle "
    "arôme naturel amidon",
)
SPANISH = _language(
    "es",
    ",",
    "Información nutricional/Valores nutricionales/Valor nutricional medio",
    "por 100 g/por porción",
    "Valor energético/Grasas/de las cuales saturadas/Hidratos de carbono/de los cuales azúcares/"
    "Fibra alimentaria/Proteínas/Sal",
    "Ingredientes:/Modo de empleo",
    "azúcar harina de trigo agua sal aceite de palma pasta de cacao leche en polvo suero emulgente "
    "lecitina de soja puede contener trazas conservar en lugar fresco y seco consumir preferentemente "
    "antes ver tapa aroma",
)
ITALIAN = _language(
    "it",
    ",",
    "Valori nutrizionali/Dichiarazione nutrizionale/Informazioni nutrizionali",
    "per 100 g/per porzione",
    "Energia/Grassi/di cui acidi grassi saturi/Carboidrati/di cui zuccheri/Fibre/Proteine/Sale",
    "Ingredienti:/Preparazione",
    "zucchero farina di grano tenero acqua sale olio di palma pasta di cacao latte in polvere siero "
    "emulsionante può contenere tracce di frutta conservare in luogo fresco e asciutto da consumarsi "
    "entro aromi amido",
)
DUTCH = _language(
    "nl",
    ",",
    "Voedingswaarde/Gemiddelde voedingswaarde/Voedingswaarden",
    "per 100 g/per portie",
    "Energie/Vetten/waarvan verzadigde vetzuren/Koolhydraten/waarvan suikers/Vezels/Eiwitten/Zout",
    "Ingrediënten:/Bereiding",
    "suiker tarwebloem water zout palmolie cacaomassa melkpoeder weipoeder emulgator sojalecithine kan "
    "sporen van noten bevatten koel en droog bewaren ten minste houdbaar tot zie deksel natuurlijk "
    "aroma zetmeel",
)
POLISH = _language(
    "pl",
    ",",
    "Wartość odżywcza/Informacja o wartości odżywczej/Wartości odżywcze",
    "w 100 g/w porcji",
    "Wartość energetyczna/Tłuszcz/w tym kwasy nasycone/Węglowodany/w tym cukry/Błonnik/Białko/Sól",
    "Składniki:/Sposób przygotowania",
    "cukier mąka pszenna woda sól olej palmowy miazga kakaowa mleko w proszku serwatka emulgator "
    "lecytyny sojowe może zawierać orzechy przechowywać w suchym i chłodnym miejscu najlepiej spożyć "
    "przed aromat skrobia",
)
SWEDISH = _language(
    "sv",
    ",",
    "Näringsvärde/Näringsdeklaration/Näringsinnehåll",
    "per 100 g/per portion",
    "Energi/Fett/varav mättat fett/Kolhydrat/varav sockerarter/Fiber/Protein/Salt",
    "Ingredienser:/Tillagning",
    "socker vetemjöl vatten salt palmolja kakaomassa mjölkpulver vasslepulver emulgeringsmedel "
    "sojalecitin kan innehålla spår av nötter förvaras torrt och svalt bäst före se lock naturlig arom "
    "stärkelse",
)
RUSSIAN = _language(
    "ru",
    ",",
    "Пищевая ценность/Пищевая ценность на 100 г/Энергетическая ценность",
    "на 100 г/на порцию",
    "Энергия/Жиры/в т.ч. насыщенные/Углеводы/в т.ч. сахара/Клетчатка/Белки/Соль",
    "Состав:/Приготовление",
    "сахар мука пшеничная вода соль масло пальмовое какао тёртое молоко сухое сыворотка эмульгатор "
    "лецитин может содержать следы орехов хранить в сухом прохладном месте годен до см крышку "
    "ароматизатор крахмал",
)

LANGUAGES = (ENGLISH, GERMAN, FRENCH, SPANISH, ITALIAN, DUTCH, POLISH, SWEDISH, RUSSIAN)

BRAND_SYLLABLES = (
    "no", "va", "mi", "la", "ra", "bel", "ko", "ta", "fru", "so", "cra", "del", "li", "mo", "pan", "zu",
)  # fmt: skip
PRODUCTS = (
    "Organic Muesli", "Dark Chocolate", "Crunchy Chips", "Orange Juice", "Tomato Soup", "Natural Yoghurt",
    "Butterkekse", "Erdnussbutter", "Apfelsaft", "Crème Dessert", "Galettes de Riz", "Galletas",
    "Pasta Integrale", "Hagelslag", "Ptasie Mleczko", "Knäckebröd", "Печенье",
    "Black Tea", "Tofu", "Ketchup", "Oat Drink",
)  # fmt: skip
CLAIMS = (
    "NEW!", "100% natural", "No added sugar", "BIO", "High in fibre", "Gluten free", "Vegan", "Ohne Zusatz",
    "500 g", "250 ml", "Sans gluten", "Light", "2+1", "Source of protein", "Low fat",
)  # fmt: skip
