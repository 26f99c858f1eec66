"""What openpilot's two cameras would see, as the model frames that its vision network takes.

The road is drawn flat and without texture: tarmac, the two boundaries, and the planned path as a
dashed middle line. Latency, lost frames and brightness of the episode act on the pictures; errors of
seen lines do not, since a vision network makes its own.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from steerlab.envs.cameras.geometry import NARROW, WIDE, Pinhole
from steerlab.envs.kinematic_driver import roads
from steerlab.envs.kinematic_driver.render import GRASS, LINE, PATH, ROAD, SKY, VERGE, Scene
from steerlab.envs.kinematic_driver.simulator import Simulator
from steerlab.openpilot.images import pack_rgb
from steerlab.types import Bytes, Floats

CAMERA_HEIGHT, CAMERA_FORWARD = 1.22, 1.5  # m above the road, m ahead of the rear axle
NEAREST = 2.0  # m ahead of the camera, where drawing begins


def planes(simulator: Simulator, row: int) -> tuple[Bytes, Bytes]:
    """Return what openpilot's network takes of the pictures of a row, narrow and wide (6, 128, 256)."""
    narrow, wide = (pack_rgb(picture(simulator, row, camera)) for camera in (NARROW, WIDE))
    return narrow, wide


def picture(simulator: Simulator, row: int, camera: Pinhole) -> NDArray[np.uint8]:
    """Return what ``camera`` sees now, (256, 512, 3) RGB.

    Args:
        simulator: On the numpy backend.
        row: Which car.
        camera: ``NARROW`` or ``WIDE`` of :mod:`steerlab.envs.cameras.geometry`.
    """
    s, d, psi = (float(part[row]) for part in simulator.seen)
    scene = Scene(simulator, np.zeros(0), row, (s, d, psi))
    image = Image.new("RGB", (camera.width, camera.height), GRASS)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, camera.width, camera.cy), fill=SKY)
    ahead = s + CAMERA_FORWARD + NEAREST + (roads.HORIZON - 6) * np.linspace(0, 1, 120) ** 2

    def line(side: str, beyond: float) -> Floats:
        return _project(camera, scene.line(ahead, side, beyond))

    _band(pen, line("left", VERGE), line("right", VERGE), ROAD)
    for side in ("left", "right"):
        _band(pen, line(side, -0.07), line(side, 0.07), LINE)
    path = scene.line(ahead, "path")
    normal = np.gradient(path, axis=0)[:, ::-1] * (-1, 1)
    normal *= 0.06 / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    dash = ((ahead // 4).astype(int) % 2 == 0) & (np.arange(len(ahead)) < len(ahead) - 1)
    first, second = _project(camera, path - normal), _project(camera, path + normal)
    for i in np.flatnonzero(dash):
        _band(pen, first[i : i + 2], second[i : i + 2], PATH)
    pixels = np.asarray(image, np.float32) * scene.values["brightness"]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _project(camera: Pinhole, line: Floats) -> Floats:
    """Return pixels (n, 2) of points (n, 2) on the ground; nan where they are not ahead."""
    x = line[:, 0] - CAMERA_FORWARD
    x = np.where(x > 0.5 * NEAREST, x, np.nan)
    u = camera.cx + camera.focal * line[:, 1] / x
    v = camera.cy + camera.focal * CAMERA_HEIGHT / x
    return np.stack([u, v], 1)


def _band(pen: ImageDraw.ImageDraw, first: Floats, second: Floats, colour: Any) -> None:
    """Fill the quadrilaterals between two lines, as far as both are ahead."""
    hidden = np.isnan(np.concatenate([first, second], axis=1)).any(axis=1)
    until = int(np.argmax(hidden)) if hidden.any() else len(hidden)
    if until > 1:
        outline = np.concatenate([first[:until], second[:until][::-1]])
        pen.polygon([(float(u), float(v)) for u, v in np.clip(outline, -4000, 4000)], fill=colour)
