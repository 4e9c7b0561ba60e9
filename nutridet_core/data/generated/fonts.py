"""Typefaces of packs, taken from installed packages so that a drawing is the same everywhere.

Belongs here: families, where their files are, and which file has the letters of a script. Does not
belong here: rendering (`panels`). Nothing is bundled; all licences allow use in images:

| family | package | licence |
|---|---|---|
| DejaVu | matplotlib | Bitstream Vera |
| Lato, Hanken Grotesk, Source Sans Pro | font-lato, font-hanken-grotesk, font-source-sans-pro | SIL OFL 1.1 |
| Caladea | font-caladea | Apache-2.0 |
| IPAex Gothic (Japanese, traditional Chinese) | matplotlib-fontja | IPA Font License 1.0 |
| NanumGothic (Korean) | koreanize-matplotlib | SIL OFL 1.1 |
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from random import Random

_FOLDERS = {
    "dejavu": ("matplotlib", "mpl-data/fonts/ttf"),
    "lato": ("font_lato", "files"),
    "hanken": ("font_hanken_grotesk", "files"),
    "source": ("font_source_sans_pro", "files"),
    "caladea": ("font_caladea", "files"),
    "ipaex": ("matplotlib_fontja", "fonts"),
    "nanum": ("koreanize_matplotlib", "fonts"),
}


@dataclass(frozen=True, slots=True)
class Font:
    """One font file.

    Args:
        folder: a key of `_FOLDERS`.
        stretch: width of the print as a share of the font's own; below 1 is condensed.
        cyrillic: whether it has Cyrillic letters.
    """

    folder: str
    file: str
    stretch: float = 1.0
    cyrillic: bool = False

    @property
    def bold(self) -> bool:
        """Whether a substitute should be bold."""
        return any(weight in self.file for weight in ("Bold", "Black", "Semibold"))

    @property
    def path(self) -> Path:
        """Where the file is."""
        package, folder = _FOLDERS[self.folder]
        return _root(package) / folder / self.file

    def for_script(self, string: str) -> Font:
        """The font itself, or the one that has the letters of `string`."""
        if string.isascii():
            return self
        highest = max(string)
        if "\uac00" <= highest <= "\ud7a3":
            return Font("nanum", "NanumGothicBold.ttf" if self.bold else "NanumGothic.ttf", self.stretch)
        if highest >= "\u3000":
            return Font("ipaex", "ipaexg.ttf", self.stretch)
        if "\u0400" <= highest <= "\u04ff" and not self.cyrillic:
            return replace(BOLD if self.bold else REGULAR, stretch=self.stretch)
        return self


@lru_cache(maxsize=16)
def _root(package: str) -> Path:
    """The package's folder, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package}: its fonts draw the generated photos; remedy: pip install nutridet again")
    return Path(spec.submodule_search_locations[0])


def _dejavu(name: str) -> Font:
    return Font("dejavu", f"DejaVu{name}.ttf", cyrillic=True)


REGULAR, BOLD, OBLIQUE = _dejavu("Sans"), _dejavu("Sans-Bold"), _dejavu("Sans-Oblique")
SERIF, SERIF_BOLD, MONO = _dejavu("Serif"), _dejavu("Serif-Bold"), _dejavu("SansMono")


@dataclass(frozen=True, slots=True)
class Family:
    """The faces that one pack uses for most of its print."""

    regular: Font
    bold: Font
    oblique: Font

    def condensed(self, stretch: float) -> Family:
        """The family at `stretch` of its width."""
        return Family(*(replace(font, stretch=stretch) for font in (self.regular, self.bold, self.oblique)))


def _family(folder: str, pattern: str, names: tuple[str, str, str], cyrillic: bool = False) -> Family:
    return Family(*(Font(folder, pattern.format(name), cyrillic=cyrillic) for name in names))


DEJAVU = Family(REGULAR, BOLD, OBLIQUE)
FAMILIES = (
    DEJAVU,
    _family("lato", "Lato-{}.ttf", ("Regular", "Bold", "Italic")),
    _family("lato", "Lato-{}.ttf", ("Regular", "Black", "Italic")),
    _family("hanken", "HankenGrotesk-{}.otf", ("Regular", "Bold", "Italic")),
    _family("hanken", "HankenGrotesk-{}.otf", ("Medium", "SemiBold", "MediumItalic")),
    _family("source", "SourceSansPro-{}.ttf", ("Regular", "Bold", "It"), cyrillic=True),
    _family("source", "SourceSansPro-{}.ttf", ("Semibold", "Black", "SemiboldIt"), cyrillic=True),
    _family("caladea", "Caladea-{}.ttf", ("Regular", "Bold", "Italic")),
    Family(SERIF, SERIF_BOLD, OBLIQUE),
)
_WEIGHTS = (0.12, 0.1, 0.1, 0.14, 0.1, 0.2, 0.12, 0.07, 0.05)
_STRETCHES = (0.72, 0.85)  # few, so that rendered words can be reused


def draw_family(rng: Random) -> Family:
    """A family, often condensed: packs have little room."""
    family = rng.choices(FAMILIES, _WEIGHTS)[0]
    return family.condensed(rng.choice(_STRETCHES)) if rng.random() < 0.45 else family
