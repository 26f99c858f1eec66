"""Pictures of one row: the road from above, and as a camera behind the windscreen sees it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from steerlab.envs.kinematic_driver import roads
from steerlab.envs.kinematic_driver.dynamics import FRONT, HALF_WIDTH, REAR
from steerlab.envs.kinematic_driver.observation import LAYOUT, X_IDXS
from steerlab.envs.kinematic_driver.randomization import DESIRES, KINDS
from steerlab.envs.kinematic_driver.simulator import Simulator
from steerlab.envs.kinematic_driver.violations import VIOLATIONS
from steerlab.types import Floats

HEIGHT, BIRD_WIDTH, CAMERA_WIDTH = 360, 300, 640
GRASS, ROAD, LINE = (104, 138, 84), (84, 86, 92), (240, 240, 235)
SKY, PATH, SEEN, CAR = (168, 200, 226), (90, 220, 130), (255, 196, 60), (40, 96, 190)
CAMERA_HEIGHT, CAMERA_FORWARD, FOCAL = 1.22, 1.5, 520.0  # m, m, pixels
METRE = 4.0  # pixels, seen from above
VERGE = 0.6  # m of tarmac beyond the boundaries


def draw(simulator: Simulator, observation: Floats, row: int, view: str) -> NDArray[np.uint8]:
    """Return a picture (H, W, 3) of ``row``.

    Args:
        simulator: On the numpy backend.
        observation: What the agent sees, (LAYOUT.size,).
        row: Which car.
        view: ``bird``, ``camera`` or ``both``.
    """
    scene = Scene(simulator, observation, row)
    pictures = []
    if view in ("both", "camera"):
        pictures.append(_camera(scene))
    if view in ("both", "bird"):
        pictures.append(_bird(scene))
    return np.concatenate([np.asarray(picture) for picture in pictures], axis=1)


class Scene:
    """The lines of the road in the car's frame (x forward, y right), and what to write beside.

    Args:
        simulator: On the numpy backend.
        observation: What the agent sees; empty where no seen lines are drawn.
        row: Which car.
        pose: Arc length, offset and heading from which it is seen; those of now by default.
    """

    def __init__(
        self,
        simulator: Simulator,
        observation: Floats,
        row: int,
        pose: tuple[float, float, float] | None = None,
    ) -> None:
        state = simulator.state
        self.values = {name: float(part[row]) for name, part in simulator.episode.items()}
        now = (float(part[row]) for part in (state.s, state.d, state.psi))
        self.s, self.d, self.psi = pose or now
        self.v, self.k = float(state.v[row]), float(state.k[row])
        self.violation = VIOLATIONS[int(simulator.violation[row])]
        self.knots = simulator.view.reshape(-1, simulator.knots, 8)[row].astype(float)
        self.spacing = self.values["spacing"]
        x, y, heading, *_ = self._road(np.array([self.s]))
        self.x = x[0] - self.d * np.sin(heading[0])
        self.y = y[0] + self.d * np.cos(heading[0])
        self.heading = heading[0] + self.psi
        self.observation = LAYOUT.split(observation)

    def _road(self, s: Floats) -> list[Floats]:
        at = np.clip(s / self.spacing, 0, len(self.knots) - 1.001)
        whole = at.astype(int)
        x, y, heading, mean, left, left_slope, right, right_slope = self.knots[whole].T
        along = (at - whole) * self.spacing
        chord = heading + 0.5 * along * mean
        return [
            x + along * np.cos(chord),
            y + along * np.sin(chord),
            heading + along * mean,
            left + along * left_slope,
            right + along * right_slope,
        ]

    def line(self, s: Floats, side: str, beyond: float = 0.0) -> Floats:
        """Return points (n, 2) of the path, or of a boundary and ``beyond`` m further out."""
        x, y, heading, left, right = self._road(s)
        offset = {"path": 0 * s, "left": -left - beyond, "right": right + beyond}[side]
        dx = x - offset * np.sin(heading) - self.x
        dy = y + offset * np.cos(heading) - self.y
        cosine, sine = np.cos(self.heading), np.sin(self.heading)
        return np.stack([cosine * dx + sine * dy, cosine * dy - sine * dx], axis=1)

    def seen(self, side: str) -> Floats:
        """Return the line as the agent sees it, as points (33, 2).

        It sees only offsets; how far ahead they lie is taken from the road.
        """
        forward = self.line(self.s + X_IDXS, side)[:, 0]
        return np.stack([forward, self.observation[f"{side}_offset"]], axis=1)

    def caption(self) -> str:
        """Return what to write on the picture."""
        v = self.values
        wanted = v["desire_from"] <= self.s <= v["desire_to"]
        lines = [
            f"{3.6 * self.v:3.0f} km/h   set {3.6 * v['cruise_speed']:.0f}",
            f"{KINDS[int(v['kind'])]}   desire {DESIRES[int(v['desire']) if wanted else 0]}",
            f"friction {v['friction']:.2f}   delay {v['lateral_delay']:.2f} s",
            f"off the path {self.d:+.2f} m",
        ]
        return "\n".join(
            [*lines, self.violation.replace("_", " ")][: 4 + (self.violation != "none")]
        )


def _bird(scene: Scene) -> Image.Image:
    image = Image.new("RGB", (BIRD_WIDTH, HEIGHT), GRASS)
    pen = ImageDraw.Draw(image)
    origin = np.array([BIRD_WIDTH / 2, HEIGHT * 0.8])

    def project(points: Floats) -> list[tuple[float, float]]:
        pixels = origin + METRE * np.stack([points[:, 1], -points[:, 0]], axis=1)
        return [(float(u), float(v)) for u, v in pixels]

    s = np.arange(max(scene.s - 30, 0.0), scene.s + 110, 1.0)
    edge = [*project(scene.line(s, "left", VERGE)), *project(scene.line(s, "right", VERGE))[::-1]]
    pen.polygon(edge, fill=ROAD)
    for side in ("left", "right"):
        pen.line(project(scene.line(s, side)), fill=LINE, width=2)
    path = project(scene.line(s, "path"))
    for a in range(0, len(path) - 2, 4):
        pen.line(path[a : a + 3], fill=PATH, width=2)
    for side in ("left", "right"):
        pen.line(project(scene.seen(side)[:24]), fill=SEEN, width=1)
    body = np.array(
        [[FRONT, -HALF_WIDTH], [FRONT, HALF_WIDTH], [-REAR, HALF_WIDTH], [-REAR, -HALF_WIDTH]]
    )
    pen.polygon(project(body), fill=CAR, outline=LINE)
    return image


def _camera(scene: Scene) -> Image.Image:
    image = Image.new("RGB", (CAMERA_WIDTH, HEIGHT), GRASS)
    pen = ImageDraw.Draw(image)
    horizon = HEIGHT * 0.42
    pen.rectangle((0, 0, CAMERA_WIDTH, horizon), fill=SKY)

    def project(points: Floats) -> list[tuple[float, float]]:
        x = points[:, 0] - CAMERA_FORWARD
        u = CAMERA_WIDTH / 2 + FOCAL * points[:, 1] / x
        v = horizon + FOCAL * CAMERA_HEIGHT / x
        return [(float(a), float(b)) for a, b in zip(u, v, strict=True)]

    def visible(*lines: Floats) -> int:
        """Return how many points from the first are in front of the camera, in all lines."""
        behind = np.min([np.append(line[:, 0], 0.0) < CAMERA_FORWARD + 1.0 for line in lines], 0)
        return int(np.argmax(behind))

    # Nearest first, with steps that grow with distance; the nearest points lie in the picture.
    s = scene.s + CAMERA_FORWARD + 1.5 + (roads.HORIZON - 4) * np.linspace(0, 1, 160) ** 2
    left, right = scene.line(s, "left", VERGE), scene.line(s, "right", VERGE)
    keep = visible(left, right)
    pen.polygon([*project(_front(left[:keep])), *project(_front(right[:keep]))[::-1]], fill=ROAD)
    for side in ("left", "right"):
        _stroke(pen, project, _front(scene.line(s, side)), LINE, 0.12)
    path = scene.line(s, "path")
    for a in range(0, len(path) - 3, 6):
        _stroke(pen, project, _front(path[a : a + 4]), PATH, 0.15)
    for side in ("left", "right"):
        points = _front(scene.seen(side))
        if len(points) > 1:
            pen.line(project(points), fill=SEEN, width=1)
    pen.rectangle((0, HEIGHT - 14, CAMERA_WIDTH, HEIGHT), fill=(38, 40, 44))
    font = ImageFont.load_default(size=15)
    pen.multiline_text((12, 8), scene.caption(), fill=(20, 26, 34), font=font, spacing=3)
    return image


def _front(line: Floats) -> Floats:
    """Return the points of a line that are well in front of the camera."""
    return line[line[:, 0] > CAMERA_FORWARD + 1.0]


def _stroke(pen: Any, project: Any, line: Floats, colour: Any, width: float) -> None:
    """Draw a band of ``width`` m on the ground along ``line`` (n, 2)."""
    if len(line) < 2:
        return
    direction = np.gradient(line, axis=0)
    normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
    normal *= width / 2 / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    pen.polygon([*project(line - normal), *project(line + normal)[::-1]], fill=colour)
