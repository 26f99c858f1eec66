"""Tarmac and the lines on it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.cameras.mesh import Mesh, quads, strip
from steerlab.envs.maps.road_map import COLOURS, LANE_KINDS, MARKINGS, PAVED, RoadMap
from steerlab.types import Floats

SAG = 0.01  # m, by which a chord may miss a bend
LONGEST = 6.0  # m, of a piece
OVERLAP = 0.06  # m, by which the surfaces of neighbouring lanes cover one another
ASPHALT_SCALE, CONCRETE_SCALE = 14.0, 5.0  # m that a texture covers
KERB = 0.12  # m, height
PAINT = {
    "white": (232, 232, 226), "yellow": (226, 176, 42), "blue": (60, 110, 200),
    "green": (60, 150, 80), "red": (190, 50, 45), "other": (232, 232, 226),
}  # fmt: skip
#: Of each marking: sideways places of its lines (m from the middle), and which of them are broken.
#: "Left of" is as seen along the lane.
LINES: dict[str, tuple[tuple[float, bool], ...]] = {
    "broken": ((0.0, True),), "solid": ((0.0, False),), "botts_dots": ((0.0, True),),
    "solid_solid": ((-0.12, False), (0.12, False)), "solid_broken": ((-0.12, False), (0.12, True)),
    "broken_solid": ((-0.12, True), (0.12, False)), "broken_broken": ((-0.12, True), (0.12, True)),
}  # fmt: skip
_SIDEWALK = LANE_KINDS.index("sidewalk")
_RAISED = {_SIDEWALK, LANE_KINDS.index("median")}


def coarse(road_map: RoadMap, lane: int) -> NDArray[np.intp]:
    """Return the points of ``lane`` that are enough to draw it."""
    part = road_map.lane(lane)
    s = road_map.s[part]
    spacing = s[1]
    steepness = np.gradient(road_map.points[part, 2], spacing)
    bend = max(
        float(np.abs(road_map.curvature[part]).max()),
        float(np.abs(np.gradient(steepness, spacing)).max()),
        float(np.abs(np.gradient(np.gradient(road_map.width[part], spacing), spacing)).max()),
    )
    length = min(LONGEST, np.sqrt(8 * SAG / max(bend, 1e-6)))
    stride = max(1, int(length / spacing))
    return np.append(np.arange(part.start, part.stop - 1, stride), part.stop - 1)


def beside(road_map: RoadMap, points: NDArray[np.intp], right: Floats) -> Floats:
    """Return places (n, 3) that lie ``right`` (n,) m right of a map's ``points``."""
    heading = road_map.heading[points]
    line = road_map.points[points].copy()
    line[:, 0] -= right * np.sin(heading)
    line[:, 1] += right * np.cos(heading)
    return line


def surface(road_map: RoadMap) -> Iterator[tuple[str, Mesh]]:
    """Yield the material and mesh of every paved lane; sidewalks and medians lie a kerb higher."""
    for lane in range(road_map.lanes):
        kind = int(road_map.lane_kind[lane])
        raised = kind in _RAISED
        if not raised and kind not in PAVED:
            continue
        points = coarse(road_map, lane)
        half = 0.5 * road_map.width[points] + OVERLAP * (not raised)
        left, right = beside(road_map, points, -half), beside(road_map, points, half)
        if not raised:
            uv = np.stack([left, right], 1)[..., :2] / ASPHALT_SCALE
            yield "asphalt", strip(left, right, (235, 235, 235), uv)
            continue
        up = [0.0, 0.0, KERB]
        uv = np.stack([left, right], 1)[..., :2] / CONCRETE_SCALE
        yield "concrete", strip(left - up, right - up, (205, 203, 198), uv)
        for line in (left, right):
            yield "plain", strip(line - up, line + [0, 0, 0.05], (165, 163, 158))


def markings(road_map: RoadMap, rng: np.random.Generator) -> Iterator[tuple[str, Mesh]]:
    """Yield the lines of all drivable lanes; what two lanes share is drawn once.

    Args:
        road_map: The map.
        rng: Draws the widths of lines and the lengths of dashes, which a country has but one of.
    """
    width = float(rng.uniform(0.10, 0.18))
    dash = float(rng.choice([2.0, 3.0, 3.0, 4.5]))
    gap = float(rng.choice([1.5, 2.0, 3.0])) * dash
    for lane in np.flatnonzero(road_map.drivable):
        for side in ("left", "right"):
            if side == "right" and road_map.lane_right[lane] >= 0:
                continue  # the left line of that lane
            if side == "left" and 0 <= road_map.lane_opposite[lane] < lane:
                continue
            yield from _line(road_map, int(lane), side, width, dash, gap)


def _line(
    road_map: RoadMap, lane: int, side: str, width: float, dash: float, gap: float
) -> Iterator[tuple[str, Mesh]]:
    """Yield the line on one side of a lane, each stretch of one kind and colour for itself."""
    part = road_map.lane(lane)
    kinds = getattr(road_map, f"{side}_marking")[part]
    colours = getattr(road_map, f"{side}_colour")[part]
    s = road_map.s[part]
    sign = -1.0 if side == "left" else 1.0
    points = coarse(road_map, lane)
    changes = np.flatnonzero((np.diff(kinds) != 0) | (np.diff(colours) != 0)) + 1
    for begin, end in zip([0, *changes], [*changes, len(s)], strict=True):
        lines = LINES.get(MARKINGS[kinds[begin]], ())
        first, last = s[begin], s[min(end, len(s) - 1)]
        paint = PAINT[COLOURS[colours[begin]]]
        for offset, broken in lines:
            at = _grid(s[points - part.start], first, last)
            if broken:
                at = _dashes(first, last, dash, gap)
            if not len(at):
                continue
            along = (at / s[1]) + part.start
            low = np.minimum(along.astype(int), part.stop - 2)
            share = along - low
            middle, heading, wide = (
                values[low] + (values[low + 1] - values[low]) * _like(share, values)
                for values in (road_map.points, road_map.heading, road_map.width)
            )
            right = sign * 0.5 * wide + offset
            normal = np.stack([-np.sin(heading), np.cos(heading), 0 * heading], axis=-1)
            edges = [middle + (right + w)[..., None] * normal for w in (-0.5 * width, 0.5 * width)]
            if broken:
                left, other = edges
                corners = np.stack([left[:, 1], other[:, 1], other[:, 0], left[:, 0]], axis=1)
                yield "marking", facing_up(quads(corners, paint))
            else:
                yield "marking", strip(edges[0], edges[1], paint)


def _grid(coarse_s: Floats, first: float, last: float) -> Floats:
    """Return arc lengths (n,) from ``first`` to ``last`` by way of the coarse points."""
    between = coarse_s[(coarse_s > first + 0.01) & (coarse_s < last - 0.01)]
    return np.array([first, *between, last]) if last > first + 0.01 else np.zeros(0)


def _dashes(first: float, last: float, dash: float, gap: float) -> Floats:
    """Return where dashes begin and end, (D, 2) m; they count from the lane's beginning."""
    step = dash + gap
    begin = np.arange(np.floor(first / step), np.ceil(last / step) + 1) * step
    both = np.clip(np.stack([begin, begin + dash], axis=1), first, last)
    return both[both[:, 1] - both[:, 0] > 0.2]


def _like(share: Floats, values: Floats) -> Floats:
    return share[..., None] if values.ndim == 2 else share


def facing_up(mesh: Mesh) -> Mesh:
    """Return a mesh of the ground with its normals up."""
    normals = np.where(mesh.normals[:, 2:] > 0, -mesh.normals, mesh.normals)
    return replace(mesh, normals=normals)
