"""Photographic effects that leave every box where it is.

Belongs here: light, glare, blur, noise, colour cast, JPEG. Does not belong here: anything that
moves pixels to another place (`camera`).
"""

from __future__ import annotations

import io
from functools import lru_cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

Field = NDArray[np.float64]

_GRAIN_SIDE, _GRAIN_SIGMA = 1024, 32  # px, grey levels
_FIELD = 24  # light varies slowly: a coarse field suffices


def photograph(image: Image.Image, rng: Random) -> Image.Image:
    """All effects of a hand-held phone photo."""
    image = light(image, rng)
    if rng.random() < 0.25:
        image = glare(image, rng)
    image = blur(image, rng)
    if rng.random() < 0.6:
        image = noise(image, rng, rng.uniform(1, 5) if rng.random() < 0.85 else rng.uniform(5, 11))
    return jpeg(image, rng.randint(35, 95)) if rng.random() < 0.7 else image


def light(image: Image.Image, rng: Random) -> Image.Image:
    """Shading across the photo, shadow edge, vignette, exposure and colour cast."""
    y, x = np.mgrid[-1 : 1 : _FIELD * 1j, -1 : 1 : _FIELD * 1j]
    slope = rng.uniform(0, 0.3)
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    field = 1 - slope * (1 + along) / 2 - rng.uniform(0, 0.2) * (x**2 + y**2) / 2
    if rng.random() < 0.25:
        field = field * (1 - rng.uniform(0.15, 0.45) / (1 + np.exp(-(along - rng.uniform(-0.5, 0.7)) * 12)))
    exposure = rng.uniform(0.45, 0.75) if rng.random() < 0.06 else rng.uniform(0.92, 1.4)
    cast = np.array([rng.uniform(0.88, 1.0), rng.uniform(0.93, 1.0), rng.uniform(0.8, 1.0)])
    return _multiplied(image, (field * exposure)[..., None] * cast)


def _multiplied(image: Image.Image, field: Field) -> Image.Image:
    peak = max(1.0, float(field.max()))
    if peak > 1:
        image = image.point([min(255, round(value * peak)) for value in range(256)] * 3)
    layer = Image.fromarray((field / peak * 255).clip(0, 255).astype(np.uint8))
    return ImageChops.multiply(image, layer.resize(image.size, Image.Resampling.BILINEAR))


def glare(image: Image.Image, rng: Random) -> Image.Image:
    """One or two bright reflections."""
    y, x = np.mgrid[0 : 1 : _FIELD * 1j, 0 : 1 : _FIELD * 1j]
    spot = np.zeros_like(x)
    for _ in range(rng.choice((1, 1, 2))):
        across = ((x - rng.random()) / rng.uniform(0.05, 0.3)) ** 2
        spot += rng.uniform(0.2, 0.8) * np.exp(-across - ((y - rng.random()) / rng.uniform(0.05, 0.5)) ** 2)
    coarse = Image.fromarray((spot.clip(0, 1) * 255).astype(np.uint8))
    layer = coarse.resize(image.size, Image.Resampling.BICUBIC)
    return ImageChops.screen(image, Image.merge("RGB", (layer, layer, layer)))


def blur(image: Image.Image, rng: Random) -> Image.Image:
    """Usually none or slight; sometimes out of focus or moved."""
    kind = rng.random()
    if kind < 0.3:
        return image.filter(ImageFilter.BoxBlur(rng.uniform(0.2, 1.0)))
    if kind < 0.35:
        return image.filter(ImageFilter.GaussianBlur(rng.uniform(1.1, 2.0)))
    if kind < 0.42:
        return _motion_blur(image, rng)
    return image


def _motion_blur(image: Image.Image, rng: Random) -> Image.Image:
    kernel = np.zeros((5, 5))
    angle, reach = rng.uniform(0, np.pi), rng.uniform(1, 2)
    for step in np.linspace(-reach, reach, 9):
        kernel[round(2 + step * np.sin(angle)), round(2 + step * np.cos(angle))] += 1
    return image.filter(ImageFilter.Kernel((5, 5), kernel.ravel().tolist()))


def noise(image: Image.Image, rng: Random, sigma: float) -> Image.Image:
    """Sensor noise of `sigma` grey levels: a random window of the one grain, which costs little."""
    width, height = image.size
    side = max(_GRAIN_SIDE, width, height)
    left, top = rng.randint(0, side - width), rng.randint(0, side - height)
    window = _grain(side).crop((left, top, left + width, top + height))
    layer = window.point([round(128 + (v - 128) * sigma / _GRAIN_SIGMA) for v in range(256)])
    return ImageChops.add(image, Image.merge("RGB", (layer, layer, layer)), 1, -128)


@lru_cache(maxsize=2)
def _grain(side: int) -> Image.Image:
    """Normal noise around 128, always the same."""
    grain = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32) * _GRAIN_SIGMA + 128
    return Image.fromarray(grain.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image after one JPEG round trip."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")
