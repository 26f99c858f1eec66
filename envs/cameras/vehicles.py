"""The shapes of other vehicles, and the shadows under them."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.cameras.geometry import rotation
from steerlab.envs.cameras.mesh import EMPTY, Mesh, boxes, facing, merge, quads
from steerlab.types import Floats

PAINTS = np.array(
    [[228, 228, 228], [24, 24, 28], [120, 124, 130], [168, 172, 176], [150, 22, 26], [28, 52, 110],
     [44, 84, 66], [196, 160, 60], [92, 70, 54], [60, 96, 150]], np.uint8
)  # fmt: skip
GLASS, TYRE, FRONT_LAMP = (34, 42, 52), (20, 20, 20), (244, 240, 222)
REAR_LAMP, BRAKE_LAMP = (120, 12, 14), (255, 40, 36)
SHADOW = (38, 38, 42)


@dataclass(frozen=True, eq=False)
class Vehicles:
    """M vehicles in the world; the point is the middle of the body, on the road."""

    position: Floats  # (M, 3) m
    heading: Floats  # (M,) rad
    size: Floats  # (M, 3) length, width, height, m
    paint: NDArray[np.integer]  # (M,) number in PAINTS
    braking: NDArray[np.bool_]  # (M,)
    pitch: Floats  # (M,) rad, positive up

    @property
    def rotations(self) -> Floats:
        """Return world from body, (M, 3, 3)."""
        return rotation(np.stack([0 * self.pitch, self.pitch, self.heading], axis=-1))


#: Side view of the cabin for low cars: x and height of its lower and upper edges, as shares.
_CABINS = {
    "saloon": ((-0.42, 0.30), (-0.26, 0.10)),
    "estate": ((-0.49, 0.28), (-0.44, 0.08)),
    "van": ((-0.49, 0.44), (-0.48, 0.30)),
}


@cache
def _body(style: str) -> tuple[Mesh, NDArray[np.bool_]]:
    """Return a body of length, width and height 1, and which of its vertices wear the paint."""
    if style == "truck":
        load = boxes([[-0.12, 0, -0.22]], (0.76, 1.0, 0.78), [0.0], [(255, 255, 255)])
        cab = boxes([[0.39, 0, -0.1]], (0.22, 0.96, 0.62), [0.0], [(255, 255, 255)])
        pane = quads(
            [
                [
                    [0.501, y, z]
                    for y, z in ((-0.42, -0.42), (0.42, -0.42), (0.42, -0.66), (-0.42, -0.66))
                ]
            ],
            GLASS,
        )
        parts, painted = [load, cab], [pane]
    else:
        low = boxes([[0, 0, -0.16]], (1.0, 1.0, 0.42), [0.0], [(255, 255, 255)])
        cabin, roof = _cabin(*_CABINS[style])
        parts, painted = [low, roof], [cabin]
    painted += [_wheels(0.22 if style == "truck" else 0.4), _lamps()]
    body, rest = merge(parts), merge(painted)
    wears = np.zeros(len(body.vertices) + len(rest.vertices), bool)
    wears[: len(body.vertices)] = True
    return facing(merge([body, rest])), wears


def _cabin(low: tuple[float, float], high: tuple[float, float]) -> tuple[Mesh, Mesh]:
    """Return the glass and the roof between a lower and an upper outline."""
    ring = [
        [[x, y * w, z] for x, y in ((a, -1), (b, -1), (b, 1), (a, 1))]
        for (a, b), w, z in ((low, 0.48, -0.57), (high, 0.38, -1.0))
    ]
    bottom, top = np.array(ring)
    walls = [[bottom[i], bottom[(i + 1) % 4], top[(i + 1) % 4], top[i]] for i in range(4)]
    glass, roof = quads(walls, GLASS), quads([top], (255, 255, 255))
    outward = glass.vertices * [1.0, 1.0, 0.0]
    sign = np.sign((outward * glass.normals).sum(axis=1, keepdims=True)).astype(np.float32)
    up = np.broadcast_to(np.array([0, 0, -1], np.float32), roof.normals.shape)
    return replace(glass, normals=glass.normals * sign), replace(roof, normals=up)


def _wheels(height: float) -> Mesh:
    spots = [[x, y, 0.0] for x in (-0.32, 0.32) for y in (-0.44, 0.44)]
    return boxes(spots, (0.15, 0.13, height), np.zeros(4), np.full((4, 3), TYRE[0]))


def _lamps() -> Mesh:
    """Return two lamps in front, and two behind, which come last."""

    def pair(x: float, colour: tuple[int, int, int]) -> Mesh:
        made = quads(
            [[[x, s * a, z] for a, z in ((0.28, -0.36), (0.46, -0.36), (0.46, -0.48), (0.28, -0.48))]
             for s in (-1, 1)],
            colour,
        )  # fmt: skip
        return replace(
            made, normals=np.broadcast_to(np.array([np.sign(x), 0, 0], np.float32), (8, 3))
        )

    return merge([pair(0.503, FRONT_LAMP), pair(-0.503, REAR_LAMP)])


def style_of(length: float, height: float) -> str:
    """Return which body suits a vehicle's size, m."""
    if length > 6.0:
        return "truck"
    if height > 1.85:
        return "van"
    return "estate" if height > 1.52 else "saloon"


def bodies(vehicles: Vehicles) -> Mesh:
    """Return the bodies of all vehicles, in the world."""
    parts = []
    for i, turn in enumerate(vehicles.rotations):
        length, _, height = vehicles.size[i]
        body, wears = _body(style_of(length, height))
        colours = body.colours.copy()
        colours[wears] = PAINTS[vehicles.paint[i] % len(PAINTS)]
        if vehicles.braking[i]:
            colours[-8:] = BRAKE_LAMP
        sized = body.vertices * vehicles.size[i].astype(np.float32)
        parts.append(
            replace(body, vertices=sized, colours=colours).moved(turn, vehicles.position[i])
        )
    return merge(parts)


def shadows(vehicles: Vehicles) -> Mesh:
    """Return dark patches on the road under all vehicles."""
    if not len(vehicles.position):
        return EMPTY
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    out = 0.5 * vehicles.size[:, None, :2] + [0.12, 0.18]
    flat = np.insert(corners * out, 2, -0.01, axis=-1)
    placed = np.einsum("mij,mkj->mki", vehicles.rotations, flat) + vehicles.position[:, None]
    made = quads(placed, SHADOW)
    up = np.broadcast_to(np.array([0, 0, -1], np.float32), made.normals.shape)
    return facing(replace(made, normals=up))
