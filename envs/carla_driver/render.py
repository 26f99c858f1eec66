"""A picture of one row from above: the map around the ego vehicle, traffic, signals and the path."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from steerlab.envs.carla_driver.routes import Routes
from steerlab.envs.carla_driver.scene import Scene
from steerlab.envs.carla_driver.traffic import EGO_LENGTH, EGO_WIDTH, KINDS, LIGHTS
from steerlab.envs.kinematic_driver.dynamics import FRONT, REAR
from steerlab.envs.kinematic_driver.randomization import DESIRES
from steerlab.envs.maps.road_map import COLOURS, LANE_KINDS, MARKINGS, PAVED, RoadMap
from steerlab.types import Floats

WIDTH, HEIGHT, METRE = 480, 480, 4.0  # pixels, and of a metre
AHEAD = 0.7  # share of the picture that lies ahead
GRASS, ROAD, WALK, EDGE = (104, 138, 84), (84, 86, 92), (150, 148, 142), (60, 60, 62)
LINES = {"white": (240, 240, 235), "yellow": (236, 190, 70)}
PATH, EGO, LEAD, CAR = (90, 220, 130), (40, 96, 190), (214, 92, 60), (196, 176, 96)
SHOWN = {
    "green": (70, 210, 90), "yellow": (250, 200, 60), "red": (230, 60, 50), "stop": (200, 40, 40),
}  # fmt: skip
REACH = 1.2 * max(WIDTH, HEIGHT) / METRE  # m around the ego vehicle that can be in the picture


def draw(scene: Scene, routes: Routes, violation: str) -> NDArray[np.uint8]:
    """Return the picture (480, 480, 3) of a scene, the ego vehicle's front up.

    Args:
        scene: What there is.
        routes: Routes of the environment.
        violation: What ended the episode, or ``none``.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), GRASS)
    pen = ImageDraw.Draw(image)
    view = _View(scene.ego)
    _surface(pen, view, scene.road_map)
    knot = int(scene.route_s / routes.spacing)
    path = routes.pose[scene.route, knot : knot + int(REACH / routes.spacing), :2]
    pen.line(view.pixels(path), fill=PATH, width=2)
    _signals(pen, view, scene)
    for i, (pose, size) in enumerate(zip(scene.vehicles, scene.vehicle_sizes, strict=True)):
        pen.polygon(view.body(pose, *size), fill=LEAD if i == scene.lead else CAR, outline=EDGE)
    middle = scene.ego.copy()
    middle[:2] += 0.5 * (FRONT - REAR) * np.array([np.cos(middle[5]), np.sin(middle[5])])
    pen.polygon(view.body(middle, EGO_LENGTH, EGO_WIDTH), fill=EGO, outline=LINES["white"])
    _caption(pen, scene, violation)
    return np.array(image)


class _View:
    """From the world to pixels."""

    def __init__(self, ego: Floats) -> None:
        self.centre, cosine, sine = ego[:2], np.cos(ego[5]), np.sin(ego[5])
        self.forward, self.right = np.array([cosine, sine]), np.array([-sine, cosine])

    def pixels(self, points: Floats) -> list[tuple[float, float]]:
        """Return the pixels of points (n, 2) or (n, 3)."""
        off = points[:, :2] - self.centre
        u = WIDTH / 2 + METRE * (off @ self.right)
        v = HEIGHT * AHEAD - METRE * (off @ self.forward)
        return [(float(a), float(b)) for a, b in zip(u, v, strict=True)]

    def body(self, pose: Floats, length: float, width: float) -> list[tuple[float, float]]:
        """Return the corners of a vehicle."""
        along = 0.5 * length * np.array([np.cos(pose[5]), np.sin(pose[5])])
        across = 0.5 * width * np.array([-np.sin(pose[5]), np.cos(pose[5])])
        signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
        return self.pixels(pose[:2] + signs @ np.stack([along, across]))

    def near(self, points: Floats) -> NDArray[np.bool_]:
        """Tell which points can be in the picture."""
        away: NDArray[np.bool_] = np.abs(points[:, :2] - self.centre).max(axis=1) < REACH
        return away


def _surface(pen: Any, view: _View, m: RoadMap) -> None:
    """Draw the paved lanes, sidewalks and lines."""
    near = view.near(m.points)
    lanes = [i for i in range(m.lanes) if near[m.lane(i)].any()]
    walk = LANE_KINDS.index("sidewalk")
    sides = {i: (m.boundary(i, "left"), m.boundary(i, "right")) for i in lanes}
    for paved in (False, True):
        for i in lanes:
            kind = m.lane_kind[i]
            if (kind in PAVED) if paved else kind == walk:
                left, right = sides[i]
                outline = view.pixels(np.concatenate([left, right[::-1]]))
                pen.polygon(outline, fill=ROAD if paved else WALK)
    for i in lanes:
        if m.lane_kind[i] not in PAVED:
            continue
        part = m.lane(i)
        for line, kinds, colours in zip(
            sides[i],
            (m.left_marking, m.right_marking),
            (m.left_colour, m.right_colour),
            strict=True,
        ):
            _line(pen, view.pixels(line), m.s[part], kinds[part], colours[part])


def _line(pen: Any, pixels: Any, s: Floats, kinds: Any, colours: Any) -> None:
    for a in range(len(pixels) - 1):
        kind = MARKINGS[kinds[a]]
        if kind == "none" or (kind.startswith("broken") and s[a] % 9.0 > 3.0):
            continue
        colour = EDGE if kind == "curb" else LINES.get(COLOURS[colours[a]], LINES["white"])
        pen.line([pixels[a], pixels[a + 1]], fill=colour, width=1)


def _signals(pen: Any, view: _View, scene: Scene) -> None:
    """Draw the stop lines in the colour that their signals show."""
    m = scene.road_map
    for signal, shown in enumerate(scene.signals):
        if LIGHTS[shown] not in SHOWN:
            continue
        for stop in range(m.stop_start[signal], m.stop_start[signal + 1]):
            part = m.lane(int(m.stop_lane[stop]))
            at = part.start + int(np.searchsorted(m.s[part], m.stop_s[stop], side="right")) - 1
            if not view.near(m.points[at : at + 1])[0]:
                continue
            across = np.array([-np.sin(m.heading[at]), np.cos(m.heading[at])])
            half = 0.5 * m.width[at] * across
            line = np.stack([m.points[at, :2] - half, m.points[at, :2] + half])
            pen.line(view.pixels(line), fill=SHOWN[LIGHTS[shown]], width=3)


def _caption(pen: Any, scene: Scene, violation: str) -> None:
    lines = [
        f"{3.6 * scene.ego_speed:3.0f} km/h   desire {DESIRES[scene.desire]}",
        f"{len(scene.vehicles)} vehicles"
        + (
            f", {KINDS[scene.vehicle_kinds[scene.lead]]} {scene.lead_gap:.0f} m ahead"
            if scene.lead >= 0
            else ""
        ),
    ]
    if violation != "none":
        lines.append(violation.replace("_", " "))
    font = ImageFont.load_default(size=14)
    pen.multiline_text((10, 8), "\n".join(lines), fill=(20, 26, 34), font=font, spacing=3)
