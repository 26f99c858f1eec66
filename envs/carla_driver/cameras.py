"""The windshield cameras as a part of observations and of the rendered picture."""

from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steerlab.envs.cameras.geometry import NARROW, WIDE
from steerlab.envs.carla_driver.recording import Driven, Recorder
from steerlab.envs.carla_driver.scene import Scene
from steerlab.envs.carla_driver.windshield import Windshield
from steerlab.envs.labels.labels import current
from steerlab.envs.shards.layout import PLANES
from steerlab.envs.shards.pictures import calibrated_view, draw_labels
from steerlab.openpilot.contracts import IMAGE_LAG
from steerlab.openpilot.images import HEIGHT, WIDTH, image_pair
from steerlab.types import Bytes

NAMES = {"rgb": ("narrow", "wide"), "model": ("img", "big_img")}


class Seen(Driven, Protocol):
    """What of an environment its cameras need."""

    num_envs: int

    def scene(self, row: int) -> Scene:
        """Return the true state of everything in a row."""

    def windshield(self, row: int) -> Windshield:
        """Return the cameras of a row."""


class Cameras:
    """What the rows of an environment see. Rows render in turn, each moment once.

    Args:
        env: The environment.
        kind: ``rgb`` or ``model``.
    """

    def __init__(self, env: Seen, kind: str) -> None:
        self.env, self.kind, self.names = env, kind, NAMES[kind]
        shape = (HEIGHT, WIDTH, 3) if kind == "rgb" else PLANES
        depth = 1 if kind == "rgb" else IMAGE_LAG + 1
        #: The newest pictures of both cameras first, as many as are needed.
        self.seen = np.zeros((env.num_envs, depth, 2, *shape), np.uint8)
        self.at = np.full(env.num_envs, -1)  # step of the newest picture, -1 for none

    def space(self, state: gym.Space[Any]) -> gym.spaces.Dict:
        """Return the space of observations whose ``state`` is of this space."""
        shape = (HEIGHT, WIDTH, 3) if self.kind == "rgb" else (2 * PLANES[0], *PLANES[1:])
        box = gym.spaces.Box(0, 255, shape, np.uint8)
        return gym.spaces.Dict({"state": state, **dict.fromkeys(self.names, box)})

    def begin(self, rows: NDArray[np.intp]) -> None:
        """Forget the past: new episodes begin in ``rows``."""
        self.seen[rows], self.at[rows] = 0, -1

    def observe(self, rows: NDArray[np.intp], state: NDArray[np.float32]) -> dict[str, Any]:
        """Return the observations of ``rows`` whose state is given."""
        for row in rows.tolist():
            self._look(row)
        seen = self.seen[rows]
        if self.kind == "rgb":
            parts = [seen[:, 0, camera] for camera in (0, 1)]
        else:
            parts = [image_pair(seen[:, -1, camera], seen[:, 0, camera]) for camera in (0, 1)]
        return {"state": state, **dict(zip(self.names, parts, strict=True))}

    def _look(self, row: int) -> None:
        """Take the picture of this moment, if that was not done."""
        now = int(self.env.simulator.time[row])
        if self.at[row] == now:
            return
        scene, shield = self.env.scene(row), self.env.windshield(row)
        both = shield.pictures(scene) if self.kind == "rgb" else shield.planes(scene)
        self.seen[row, 1:] = self.seen[row, :-1].copy()
        self.seen[row, 0] = np.stack(both)
        self.at[row] = now

    def picture(self, row: int, above: Bytes) -> Bytes:
        """Return both cameras with lane lines, road edges and lead drawn in, and the view ``above``."""
        scene, shield = self.env.scene(row), self.env.windshield(row)
        recorder = Recorder(self.env, row)
        recorder.add(scene, (0.0, 0.0), np.inf)
        label = current(recorder.finish(shield.mount))
        pictures = [
            draw_labels(picture, calibrated_view(shield.mount, camera), label, shield.mount)
            for picture, camera in zip(shield.pictures(scene), (NARROW, WIDE), strict=True)
        ]
        tall = 2 * HEIGHT
        image = Image.fromarray(above)
        wide = round(image.width * tall / image.height)
        return np.concatenate(
            [np.concatenate(pictures), np.asarray(image.resize((wide, tall)))], axis=1
        )
