"""Shards to look at: frames as RGB, with their labels projected into them."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from steerlab.envs.cameras.geometry import (
    NARROW,
    VIEW_FROM_DEVICE,
    WIDE,
    Mount,
    Pinhole,
    View,
    rotation,
)
from steerlab.envs.shards.read import Shard
from steerlab.openpilot.contracts import X_IDXS
from steerlab.openpilot.images import unpack_yuv
from steerlab.types import Array, Bytes

LINE, EDGE, PLAN, LEAD = (80, 220, 100), (255, 90, 70), (70, 160, 255), (255, 210, 60)
#: What is drawn of a frame.
DRAWN = (
    "lane_lines", "lane_lines_valid", "lane_lines_prob", "road_edges", "road_edges_valid", "plan",
    "plan_valid", "lead", "lead_prob",
)  # fmt: skip


def rgb(planes: Bytes) -> Bytes:
    """Return pictures (..., 256, 512, 3) of planes (..., 6, 128, 256), BT.601 in full range."""
    y, u, v = (part.astype(np.float32) for part in unpack_yuv(planes))
    u, v = (np.repeat(np.repeat(c, 2, -2), 2, -1) - 128 for c in (u, v))
    colours = np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], -1)
    return np.clip(np.rint(colours), 0, 255).astype(np.uint8)


def calibrated_view(mount: Mount, camera: Pinhole) -> View:
    """Return the camera of a model frame as seen from the calibrated frame of the labels."""
    device = rotation(mount.rpy) @ mount.calibrated_from_car.T
    if camera == WIDE:
        device = rotation(mount.wide) @ device
    back = rotation(mount.calibration).T
    return View(camera, np.zeros(3), VIEW_FROM_DEVICE @ back @ device)


def draw_labels(picture: Bytes, view: View, label: dict[str, Array], mount: Mount) -> Bytes:
    """Return a picture with lane lines, road edges, plan and lead drawn into it.

    Args:
        picture: (h, w, 3).
        view: From :func:`calibrated_view`.
        label: The arrays of :data:`DRAWN` of one frame.
        mount: Where the device is.
    """
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    for i in range(4):
        share = 0.35 + 0.65 * float(label["lane_lines_prob"][i])
        colour = tuple(int(share * c) for c in LINE)
        _stroke(pen, view, label["lane_lines"][i], label["lane_lines_valid"][i], colour)
    for i in range(2):
        _stroke(pen, view, label["road_edges"][i], label["road_edges_valid"][i], EDGE)
    plan, known = label["plan"], label["plan_valid"].astype(bool)
    # The plan is that of the rear axle, on the road.
    road = plan[known, :3] + [-mount.forward, -mount.right, mount.height]
    _line(pen, view, road, PLAN)
    if label["lead_prob"][0] > 0.5:
        x, y = label["lead"][0, 0, :2]
        u, v, depth = view.project([x, y, mount.height])
        if np.isfinite(u):
            size = 0.9 * view.camera.focal / depth
            pen.polygon([(u, v - size), (u - size, v + 2), (u + size, v + 2)], outline=LEAD)
    return np.asarray(image)


def _stroke(pen: Any, view: View, line: Array, valid: Array, colour: Any) -> None:
    """Draw a line of y, z at ``X_IDXS``, each stretch of valid points."""
    points = np.column_stack([X_IDXS, line])
    valid = valid.astype(bool)
    for part in np.split(np.arange(len(points)), np.flatnonzero(~valid) + 1):
        _line(pen, view, points[part[valid[part]]], colour)


def _line(pen: Any, view: View, points: Array, colour: Any) -> None:
    seen = view.project(points)
    seen = seen[np.isfinite(seen[:, 0]) & (seen[:, 2] > 1.5)][:, :2]
    if len(seen) > 1:
        pen.line([(float(u), float(v)) for u, v in np.clip(seen, -3000, 3000)], fill=colour)


def frame_picture(shard: Shard, frame: int) -> Bytes:
    """Return both cameras of a frame with its labels, narrow above wide, (512, 512, 3)."""
    label = {name: shard.read(name, frame) for name in DRAWN}
    rows = [
        draw_labels(
            rgb(shard.read(name, frame)), calibrated_view(shard.mount, camera), label, shard.mount
        )
        for name, camera in (("img", NARROW), ("big_img", WIDE))
    ]
    return np.concatenate(rows)


def contact_sheet(shard: Shard, columns: int = 4, rows: int = 2) -> Bytes:
    """Return frames from all over a shard, (rows * 512, columns * 512, 3)."""
    at = np.linspace(0, shard.frames - 1, columns * rows).astype(int)
    frames = [frame_picture(shard, int(i)) for i in at]
    return np.concatenate(
        [np.concatenate(frames[r * columns : (r + 1) * columns], axis=1) for r in range(rows)]
    )
