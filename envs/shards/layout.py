"""What is in a shard: names, shapes and types of its arrays, and what its attributes must hold.

A shard is a zarr v3 group named ``{scenario}_{map}_{seed}.zarr``. Its frames (F of them) are clean
single planes; pairs, histories and noise are made by whoever reads. What lasts one tick only (state,
desire, commands) is kept at every one of the T ticks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from steerlab.envs.labels.labels import SHAPES
from steerlab.openpilot.contracts import DESIRES
from steerlab.openpilot.images import HEIGHT, WIDTH

SCHEMA = 2
#: Grey levels between those that stored pictures have. What is finer is textures and edges that a
#: sensor's noise would drown, and it takes two thirds of the disk. An odd step rounds without a bias.
STEP = 7
KIND = "steerlab driving episode"
#: Attribute with the SHA-256 over the other attributes and the descriptions of the arrays.
DIGEST = "digest"
PLANES = (6, HEIGHT // 2, WIDTH // 2)

#: Columns of ``state``: the car at each tick. World frame: y right, z down.
STATE = (
    "x", "y", "z", "roll", "pitch", "heading", "speed", "acceleration", "curvature", "yaw_rate",
    "s", "offset", "heading_error",
)  # fmt: skip
#: Columns of ``commands``: what was asked for, and what the teacher alone would have asked for.
COMMANDS = ("curvature", "acceleration", "teacher_curvature", "teacher_acceleration")


@dataclass(frozen=True)
class Part:
    """One array: F or T in front (``axis``), then ``shape``."""

    axis: str
    shape: tuple[int, ...]
    dtype: DTypeLike


PARTS: dict[str, Part] = {
    "img": Part("F", PLANES, np.uint8),
    "big_img": Part("F", PLANES, np.uint8),
    "frame_tick": Part("F", (), np.int32),
    "state": Part("T", (len(STATE),), np.float64),
    "commands": Part("T", (len(COMMANDS),), np.float32),
    "desire": Part("T", (len(DESIRES),), np.float32),
    **{
        name: Part("F", shape, bool if name.endswith("_valid") else np.float32)
        for name, shape in SHAPES.items()
    },
}

#: Attributes that every shard has.
ATTRIBUTES = (
    "kind", "schema", "package", "commit", "scenario", "scenario_hash", "map", "map_hash", "seed",
    "backend", "weather", "look", "mount", "vehicle", "hz", "frame_stride", "frame_phase", "state",
    "commands", "desires", "ended", "files",
)  # fmt: skip


def shard_name(scenario: str, map_name: str, seed: int) -> str:
    """Return the name of an episode's folder."""
    return f"{scenario}_{map_name}_{seed}.zarr"
