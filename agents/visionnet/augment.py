"""What a loader does to clean frames: other light, the noise of a sensor, a frame that was lost.

Shards hold clean frames, so that each epoch sees them otherwise. All draws come from the generator that
is handed in.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from steerlab.errors import unknown_name
from steerlab.types import Bytes

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
        whole = [np.clip(np.rint(table), 0, 255).astype(np.uint8) for table in tables]
        for frame in (pair[:PLANES], pair[PLANES:]):
            if frame.any():  # zeros stand for no frame
                for plane, table in zip(frame, whole, strict=True):
                    plane[:] = np.take(table, plane)


def _add_noise(pair: Bytes, sigma: float, rng: np.random.Generator) -> None:
    """Add noise of standard deviation ``sigma`` to the brightness, a third of it to the colours."""
    brightness, colour = slice(0, 4), slice(4, PLANES)
    for frame in (pair[:PLANES], pair[PLANES:]):
        if not frame.any():  # zeros stand for no frame
            continue
        for planes, strength in ((brightness, sigma), (colour, sigma / 3.0)):
            part = frame[planes]
            start = int(rng.integers(0, _TABLE - part.size))
            noise = _noise()[start : start + part.size].reshape(part.shape)
            # In whole numbers, which is several times as fast: both factors are 32 times too large.
            noise = (noise * np.int16(round(32 * strength)) + np.int16(512)) >> 10
            np.clip(part + noise, 0, 255, out=part, casting="unsafe")


@cache
def _noise() -> NDArray[np.int16]:
    """Return 32 times normal values, drawn once: a part of them anywhere serves as well as new ones."""
    values = np.random.default_rng(0).standard_normal(_TABLE, np.float32)
    return np.rint(32.0 * values).astype(np.int16)
