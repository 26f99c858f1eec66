"""The road along a route as a few lines beside one another: lane lines, road edges, the middle.

Made once for a route; what a frame's labels need is then a piece of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from steerlab.envs.maps.road_map import MARKINGS, RoadMap
from steerlab.errors import InputError
from steerlab.types import Floats

NARROWEST = 1.0  # m: what is narrower is no lane yet
EDGE_REACH = 25.0  # m, how far beside the lane a road edge is looked for
SAME_LEVEL = 2.5  # m: what is higher or lower belongs to a bridge or to what passes below


@dataclass(frozen=True, eq=False)
class Path:
    """A line that cars follow, at n places at most 2 m apart."""

    s: Floats  # (n,) m
    centre: Floats  # (n, 3) m, world
    heading: Floats  # (n,) rad, without jumps
    curvature: Floats  # (n,) 1/m
    limit: Floats  # (n,) m/s

    def locate(self, places: Floats, heading: Floats, low: Any, high: Any) -> Floats:
        """Return s (m), offset right of the line (m) and heading error (rad) of k places, (3, k).

        Args:
            places: (k, 2) or (k, 3), world.
            heading: (k,) rad.
            low: From where on to look, m along the line, (k,) or one for all.
            high: Up to where: a line may cross itself.
        """
        low, high = (np.broadcast_to(x, len(places)) for x in (low, high))
        i = np.empty(len(places), int)
        for begin in range(0, len(places), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            away = places[part, None, :2] - self.centre[None, :, :2]
            gap = (away**2).sum(axis=-1)
            outside = (self.s < low[part, None]) | (self.s > high[part, None])
            i[part] = np.where(outside, np.inf, gap).argmin(axis=1)
        along = np.stack([np.cos(self.heading[i]), np.sin(self.heading[i])], axis=1)
        away = places[:, :2] - self.centre[i, :2]
        ahead, right = (away * along).sum(1), along[:, 0] * away[:, 1] - along[:, 1] * away[:, 0]
        bend = self.curvature[i]
        # On the circle through the nearest point: ahead along it, right of it.
        stretch = np.maximum(1.0 - bend * right, 0.2)
        ds = ahead / stretch
        offset = right - 0.5 * bend * stretch * ds**2
        error = heading - self.heading[i] - bend * ds
        return np.stack([self.s[i] + ds, offset, np.arctan2(np.sin(error), np.cos(error))])


_CHUNK = 512


@dataclass(frozen=True, eq=False)
class Corridor:
    """Lines beside n places of a chain of lanes; what is missing is nan."""

    path: Path  # the middle of the lanes
    lines: Floats  # (4, n, 3) far left, left, right, far right
    painted: NDArray[np.bool_]  # (4, n) whether there is paint on it
    edges: Floats  # (2, n, 3) left, right


def corridor(road_map: RoadMap, lanes: Sequence[int]) -> Corridor:
    """Return the corridor of a chain of lanes.

    Args:
        road_map: The map.
        lanes: Drivable lanes, each a successor of the one before.

    Raises:
        InputError: No lane is given.
    """
    if not len(lanes):
        raise InputError("a corridor needs at least one lane")
    parts = [_piece(road_map, int(lane)) for lane in lanes]
    last = len(parts) - 1
    cut = [slice(None) if i == last else slice(None, -1) for i in range(len(parts))]
    centre = np.concatenate([p[0][c] for p, c in zip(parts, cut, strict=True)])
    lines = np.concatenate([p[1][:, c] for p, c in zip(parts, cut, strict=True)], axis=1)
    painted = np.concatenate([p[2][:, c] for p, c in zip(parts, cut, strict=True)], axis=1)
    where = np.concatenate(
        [np.arange(*_range(road_map, lane))[c] for lane, c in zip(lanes, cut, strict=True)]
    )
    step = np.linalg.norm(np.diff(centre, axis=0), axis=1)
    kept = np.append(True, step > 1e-3)
    centre, lines, painted, where = centre[kept], lines[:, kept], painted[:, kept], where[kept]
    s = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(centre, axis=0), axis=1)))
    heading = np.unwrap(road_map.heading[where])
    owner = np.searchsorted(road_map.lane_start, where, side="right") - 1
    edges = _edges(road_map, centre, heading, road_map.width[where])
    path = Path(s, centre, heading, road_map.curvature[where], road_map.lane_limit[owner])
    return Corridor(path, lines, painted, edges)


def _range(road_map: RoadMap, lane: int) -> tuple[int, int]:
    part = road_map.lane(int(lane))
    return part.start, part.stop


def _piece(road_map: RoadMap, lane: int) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return middle (n, 3), lines (4, n, 3) and paint (4, n) along one lane."""
    part = road_map.lane(lane)
    n = part.stop - part.start
    lines = np.full((4, n, 3), np.nan)
    painted = np.zeros((4, n), bool)
    left, right, facing = (
        int(getattr(road_map, f"lane_{side}")[lane]) for side in ("left", "right", "opposite")
    )
    lines[1], lines[2] = road_map.boundary(lane, "left"), road_map.boundary(lane, "right")
    painted[1] = _paint(road_map, lane, "left", n)
    painted[2] = _paint(road_map, lane, "right", n)
    if left >= 0:
        lines[0], painted[0] = _far(road_map, left, "left", n)
    elif facing >= 0:
        painted[1] |= _paint(road_map, facing, "left", n)[::-1]
        beyond, paint = _far(road_map, facing, "right", n)
        lines[0], painted[0] = beyond[::-1], paint[::-1]
    if right >= 0:
        painted[2] |= _paint(road_map, right, "left", n)
        lines[3], painted[3] = _far(road_map, right, "right", n)
    gone = road_map.width[part] < NARROWEST
    lines[1:3, gone] = np.nan
    painted &= ~np.isnan(lines[..., 0])
    return road_map.points[part], lines, painted


def _paint(road_map: RoadMap, lane: int, side: str, n: int) -> NDArray[np.bool_]:
    """Return whether one side of a lane is painted at n places along it."""
    kinds = getattr(road_map, f"{side}_marking")[road_map.lane(lane)]
    at = np.rint(np.linspace(0, len(kinds) - 1, n)).astype(int)
    bare = [MARKINGS.index(kind) for kind in ("none", "grass", "curb", "other")]
    return ~np.isin(kinds[at], bare)


def _far(road_map: RoadMap, lane: int, side: str, n: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the far side of a neighbouring lane at n places along it, and its paint."""
    line = road_map.boundary(lane, side)
    at = np.linspace(0, len(line) - 1, n)
    own = np.arange(len(line))
    far = np.stack([np.interp(at, own, line[:, i]) for i in range(3)], axis=1)
    wide = np.interp(at, own, road_map.width[road_map.lane(lane)])
    far[wide < NARROWEST] = np.nan
    paint = _paint(road_map, lane, side, n)
    beyond = int(road_map.lane_right[lane]) if side == "right" else -1
    if beyond >= 0:
        paint = paint | _paint(road_map, beyond, "left", n)
    return far, paint & (wide >= NARROWEST)


def _edges(road_map: RoadMap, centre: Floats, heading: Floats, width: Floats) -> Floats:
    """Return where the normal of the route at each place meets the nearest road edge, (2, n, 3)."""
    found = np.full((2, len(centre), 3), np.nan)
    inner = np.ones(len(road_map.edge_points), bool)
    inner[road_map.edge_start[1:-1] - 1] = False  # from the end of one edge to the next
    first = np.flatnonzero(inner[:-1]) if len(inner) else np.zeros(0, int)
    if not len(first):
        return found
    begin, end = road_map.edge_points[first], road_map.edge_points[first + 1]
    longest = float(np.linalg.norm(end - begin, axis=1).max())
    tree = cKDTree(0.5 * (begin + end)[:, :2])
    near = tree.query_ball_point(centre[:, :2], EDGE_REACH + 0.5 * longest)
    which = np.repeat(np.arange(len(centre)), [len(k) for k in near])
    segment = np.concatenate([np.asarray(k, int) for k in near])
    along = np.stack([np.cos(heading), np.sin(heading)], axis=1)[which]
    a, b = begin[segment] - centre[which], end[segment] - centre[which]
    ahead = [(p[:, :2] * along).sum(1) for p in (a, b)]
    crosses = (ahead[0] > 0) != (ahead[1] > 0)
    share = np.where(crosses, ahead[0] / np.where(crosses, ahead[0] - ahead[1], 1.0), 0.0)
    at = a + share[:, None] * (b - a)
    right = along[:, 0] * at[:, 1] - along[:, 1] * at[:, 0]
    usable = crosses & (np.abs(at[:, 2]) < SAME_LEVEL) & (np.abs(right) < EDGE_REACH)
    for side, sign in enumerate((-1.0, 1.0)):
        distance = np.where(usable, sign * right, np.inf)
        distance[distance < 0.5 * width[which] - 0.5] = np.inf
        order = np.lexsort((distance, which))
        place, best = np.unique(which[order], return_index=True)
        chosen = order[best]
        there = np.isfinite(distance[chosen])
        found[side, place[there]] = centre[place[there]] + at[chosen[there]]
    return found
