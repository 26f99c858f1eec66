"""What a loader does to clean frames: other light, the noise of a sensor, a frame that was lost.

Shards hold clean frames, so that each epoch sees them otherwise. All draws come from the generator that
is handed in.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.errors import unknown_name

Bytes = NDArray[np.uint8]

AUGMENTATIONS = ("photometric", "noise", "temporal")
PLANES = 6  # of a frame: four of brightness, two of colour
LOST = 0.05  # share of the pairs whose older frame is lost
LARGEST_NOISE = 5.0  # grey levels, standard deviation
_TABLE = 1 << 20  # values of noise that are drawn once


def check_augmentations(names: Sequence[str]) -> None:
    """Raise an InputError if one of the names is unknown."""
    for name in names:
        if name not in AUGMENTATIONS:
            raise unknown_name("augmentation", name, AUGMENTATIONS)


def augment(pairs: Sequence[Bytes], names: Sequence[str], rng: np.random.Generator) -> list[Bytes]:
    """Return changed copies of the pairs (12, 128, 256) of one moment, one for each camera.

    Args:
        pairs: Narrow and wide camera.
        names: Of :data:`AUGMENTATIONS`, which are to happen.
        rng: All draws come from it.
    """
    found = [pair.copy() for pair in pairs]
    if "temporal" in names:
        _lose_frame(found, rng)
    if "photometric" in names:
        _relight(found, rng)
    if "noise" in names:
        sigma = LARGEST_NOISE * rng.random() ** 2
        for pair in found:
            _add_noise(pair, sigma, rng)
    return found


def _lose_frame(pairs: list[Bytes], rng: np.random.Generator) -> None:
    """Sometimes let the older frame be the newer one again, or zeros, as queues begin."""
    draw = rng.random()
    if draw < LOST:
        for pair in pairs:
            pair[:PLANES] = pair[PLANES:] if draw < 0.5 * LOST else 0


def _relight(pairs: list[Bytes], rng: np.random.Generator) -> None:
    """Change exposure, contrast, gamma, saturation and tint; each camera a little of its own."""
    levels = np.arange(256, dtype=np.float32)
    common = rng.uniform(-1.0, 1.0, 6)
    for pair in pairs:
        draws = common + rng.uniform(-0.2, 0.2, 6)
        bright = 255.0 * (levels / 255.0) ** np.exp(0.25 * draws[0])
        bright = (bright - 128.0) * np.exp(0.3 * draws[1]) + 128.0 + 20.0 * draws[2]
        colour = (levels - 128.0) * np.exp(0.4 * draws[3]) + 128.0
        tables = [bright] * 4 + [colour + 6.0 * draws[4], colour + 6.0 * draws[5]]
        for plane in range(2 * PLANES):
            if pair[plane].any():  # zeros stand for no frame
                table = np.clip(np.rint(tables[plane % PLANES]), 0, 255).astype(np.uint8)
                np.take(table, pair[plane], out=pair[plane])


def _add_noise(pair: Bytes, sigma: float, rng: np.random.Generator) -> None:
    """Add noise of standard deviation ``sigma`` to the brightness, a third of it to the colours."""
    scaled = [np.rint(s * _noise()).astype(np.int16) for s in (sigma, sigma / 3.0)]
    for plane in range(2 * PLANES):
        if pair[plane].any():
            table = scaled[plane % PLANES >= 4]
            start = int(rng.integers(0, _TABLE - pair[plane].size))
            noise = table[start : start + pair[plane].size].reshape(pair[plane].shape)
            pair[plane] = np.clip(pair[plane] + noise, 0, 255)


@cache
def _noise() -> NDArray[Any]:
    """Return normal values, drawn once: a part of them at a random place serves as well as new ones."""
    return np.random.default_rng(0).standard_normal(_TABLE, np.float32)
