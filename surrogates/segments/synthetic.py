"""Synthetic segments in comma's CSV format: what the embedded default task drives.

They are drawn from a simple model of a drive (speed, road curvature, superelevation, a driver who
steers with noise), not from logs, so they can be shipped. Statistics lie in the range of the public
routes; they do not replace them.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steerlab.errors import InputError
from steerlab.seeds import generator_seed
from steerlab.surrogates.segments.comma import data_path, fetched
from steerlab.surrogates.segments.data import (
    CONTROL_START,
    DT,
    GRAVITY,
    Segments,
    load_segments,
    stack_segments,
)

ROWS = 600
DEFAULT_COUNT = 16


def synthetic_segment(rng: np.random.Generator, rows: int = ROWS) -> NDArray[np.float64]:
    """Return one segment (rows, 6) with the columns of the CSV format.

    Args:
        rng: Source of every draw.
        rows: Length in steps of 0.1 s.
    """
    cruise = rng.uniform(8.0, 36.0)  # m/s
    v_ego = np.maximum(cruise + _smooth(rng, rows, 60) * 0.08 * cruise, 1.0)
    a_ego = np.gradient(v_ego, DT)
    # Lateral acceleration is what drivers keep within bounds, so curvature falls with speed.
    comfort = rng.uniform(0.05, 0.5)  # m/s^2
    curves = _smooth(rng, rows, 35) * comfort + _smooth(rng, rows, 120) * 0.5 * comfort
    curvature = np.clip(curves, -3.0, 3.0) / np.maximum(v_ego, cruise * 0.8) ** 2
    target = curvature * v_ego**2 + _smooth(rng, rows, 4) * 0.02
    roll = (
        0.012 * _smooth(rng, rows, 150)
        - 0.25 * np.clip(curves, -2.0, 2.0) / GRAVITY * rng.uniform()
    )
    steer = np.full(rows, np.nan)
    gain = 2.05 * v_ego / (v_ego + 4.0)
    wanted = np.roll(target, -3) / gain  # a driver looks ahead
    steer[:CONTROL_START] = (wanted + _smooth(rng, rows, 8) * 0.03)[:CONTROL_START]
    time = np.arange(rows) * DT
    # steerCommand is logged positive to the left; everything here is positive to the right.
    return np.stack([np.round(time, 1), v_ego, a_ego, roll, target, -steer], axis=1)


def synthetic_segments(count: int, seed: int = 0) -> Segments:
    """Return ``count`` synthetic segments named "00000" and so on; each depends on its own seed."""
    seeds = np.random.SeedSequence(seed).spawn(count)
    tables = [synthetic_segment(np.random.default_rng(s)) for s in seeds]
    return stack_segments([f"{i:05d}" for i in range(count)], tables)


@cache
def default_segments() -> Segments:
    """Return the embedded segments of ``TinyPhysics-v0``."""
    return synthetic_segments(DEFAULT_COUNT)


def find_segments(
    source: str | Path | Segments,
    limit: int = 0,
    skipped: Callable[[InputError], object] | None = None,
) -> Segments:
    """Return segments by name or path.

    Args:
        source: "default" (the embedded synthetic ones), "comma" (as fetched), the path of a
            folder, zip or CSV, or segments.
        limit: Use the first so many; 0 uses all.
        skipped: See :func:`steerlab.surrogates.segments.data.load_segments`.

    Raises:
        InputError: See :func:`steerlab.surrogates.segments.load_segments`.
    """
    if limit < 0:
        raise InputError(f"num_segments={limit} must be 0 (all) or more")
    if isinstance(source, Segments):
        return source[: limit or None]
    if str(source) == "default":
        return default_segments()[: limit or None]
    if str(source) == "comma":
        source = fetched(data_path())
    return load_segments(source, limit, skipped)


def _smooth(rng: np.random.Generator, rows: int, width: int) -> NDArray[np.float64]:
    """Return Gaussian noise of unit variance, smooth over ``width`` steps."""
    reach = 3 * width
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    noise = rng.standard_normal(rows + 2 * reach)
    return np.convolve(noise, kernel / np.sqrt((kernel**2).sum()), mode="valid")


def find_routes(source: str, count: int, seed: int) -> Segments:
    """Return the segments of a source; if it is "synthetic", ``count`` drawn ones.

    Args:
        source: As for :func:`find_segments`, or "synthetic".
        count: Number of drawn segments.
        seed: Seed of the drawn segments.
    """
    if source == "synthetic":
        return synthetic_segments(count, generator_seed("data", seed))
    return find_segments(source)
