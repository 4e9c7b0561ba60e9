"""Generated photos: `COUNT` or `COUNT:SEED` drawings of `data.generated`.

Belongs here: turning drawings into candidates. Does not belong here: how they are drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from functools import partial

from nutridet_core.answers import LABEL
from nutridet_core.children import cores, in_order
from nutridet_core.data.examples import Candidate
from nutridet_core.errors import SettingsError

WORTH_PROCESSES = 1000
"""Photos, 70 ms each; a process takes some seconds to start."""
_STATED = re.compile(r"0*(?P<count>[1-9][0-9]{0,8})(:(?P<seed>[0-9]{1,18}))?")


def read_generated(text: str) -> Iterator[Candidate]:
    """`COUNT` photos of `SEED` (0); the same pair always gives the same photos.

    Raises:
        SettingsError: at once, when the text is neither form.
    """
    stated = _STATED.fullmatch(text)
    if stated is None:
        raise SettingsError(
            f"'generated:{text[:60]}' is not a number of photos", field="source",
            remedy="Use generated:COUNT or generated:COUNT:SEED, e.g. generated:400.",
        )  # fmt: skip
    count, seed = int(stated["count"]), int(stated["seed"] or 0)
    if count < WORTH_PROCESSES:
        return (_draw(seed, index) for index in range(count))
    return in_order(partial(_draw, seed), range(count), processes=cores())


def _draw(seed: int, index: int) -> Candidate:
    from nutridet_core.data.generated import draw_product_photo

    drawing = draw_product_photo(seed, index)
    stream = io.BytesIO()
    drawing.image.save(stream, "JPEG", quality=95)
    name = f"generated-{seed}-{index:06d}"
    return Candidate(
        id=name,
        image=stream.getvalue(),
        boxes=tuple(box.as_tuple() for label, box in drawing.objects if label == LABEL),
        box_format="xyxy_unit",
        barcode=name,
        split=None,
        where=f"generated seed {seed} index {index}",
        source="generated",
        size=drawing.image.size,
        categories=tuple(label for label, _ in drawing.objects),
    )
