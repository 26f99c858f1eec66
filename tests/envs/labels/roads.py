"""Single roads of one lane pattern, whose shape is known in closed form."""

from functools import cache

import numpy as np

from steerlab.envs.cameras.geometry import Pose
from steerlab.envs.labels.corridor import Corridor
from steerlab.envs.maps.plan import Drawing, LaneSpec, Road, Section, chain, sample
from steerlab.envs.maps.road_map import RoadMap

WIDTH, SHOULDER = 3.5, 1.2  # m
#: (length, curvature at the begin, at the end) of each piece, to the right.
SHAPES = {
    "straight": [(400.0, 0.0, 0.0)],
    "arc": [(400.0, 1 / 300, 1 / 300)],
    "clothoid": [(400.0, 0.0, 1 / 250)],
}
#: A road that turns round and comes back past where it began.
HORSESHOE = [(60.0, 0.0, 0.0), (80.0, 1 / 25, 1 / 25), (150.0, 0.0, 0.0)]


@cache
def road(shape: str) -> RoadMap:
    """Two lanes each way and shoulders; the reference line begins at (10, -5) with heading 0.4."""
    wide, narrow = (WIDTH, 0.0, 0.0, 0.0), (SHOULDER, 0.0, 0.0, 0.0)
    lanes = []
    for sign in (-1, 1):
        lanes += [
            LaneSpec(sign, "driving", wide, "broken"),
            LaneSpec(2 * sign, "driving", wide, "solid"),
            LaneSpec(3 * sign, "shoulder", narrow),
        ]
    drawing = Drawing(shape)
    pieces = chain((10.0, -5.0, 0.4), HORSESHOE if shape == "horseshoe" else SHAPES[shape])
    drawing.add(Road(1, pieces, [Section(0.0, lanes, "solid_solid", "yellow")], 20.0))
    return sample(drawing)


def reference(shape: str, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y, heading of the reference line: small straight steps, whatever the shape."""
    fine = np.linspace(0, 400, 400_001)
    ((length, begin, end),) = SHAPES[shape]
    heading = 0.4 + begin * fine + 0.5 * (end - begin) / length * fine**2
    middle = 0.5 * (heading[1:] + heading[:-1])
    x = 10 + np.append(0, np.cumsum(np.cos(middle) * 0.001))
    y = -5 + np.append(0, np.cumsum(np.sin(middle) * 0.001))
    return tuple(np.interp(s, fine, v) for v in (x, y, heading))


def beside(shape: str, s: np.ndarray, right: float) -> np.ndarray:
    """Points (n, 2) that lie ``right`` m right of the reference line."""
    x, y, heading = reference(shape, s)
    return np.stack([x - right * np.sin(heading), y + right * np.cos(heading)], axis=1)


def pose_on(way: Corridor, place: int) -> Pose:
    """A car on one of a corridor's places."""
    x, y, z = (float(v) for v in way.path.centre[place])
    return Pose(x, y, z, float(way.path.heading[place]))


def lane_of(road_map: RoadMap, number: int) -> int:
    """The lane with this OpenDRIVE number."""
    return int(np.flatnonzero(road_map.lane_source[:, 2] == number)[0])
