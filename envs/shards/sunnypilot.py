"""The arrays of the specification's own shards, out of ours.

Layout: jagoff2/sunnypilot, ``tools/sunnypilot_training``: float32, images float16 in [0, 1]; a
Gaussian head is stored with (mean, log of the standard deviation) on its last axis. What there is no
truth about (the network's own features and hidden state) is zero, and said to be so.
"""

import numpy as np

from steerlab.envs.shards.read import Shard
from steerlab.openpilot.contracts import FEATURES, HISTORY, IMAGE_LAG, STRIDE
from steerlab.types import Array

LOG_STD = 0.0  # of labels, which have no spread of their own
#: Where each array comes from; ``zero`` is what no simulator can know.
SOURCES = {
    "img": "img, the frame of 0.2 s before and this one", "big_img": "big_img, likewise",
    "features_buffer": "zero", "desire": "desire, pulses of the last 5 s at 5 Hz",
    "traffic_convention": "traffic_convention", "meta": "meta", "desire_pred": "desire_pred",
    "pose": "pose", "wide_from_device_euler": "wide_from_device_euler",
    "road_transform": "road_transform", "lane_lines": "lane_lines",
    "lane_lines_prob": "lane_lines_prob", "road_edges": "road_edges", "lead": "lead",
    "lead_prob": "lead_prob", "hidden_state": "zero", "plan": "plan", "desire_state": "desire_state",
}  # fmt: skip


def history(desire: Array, ticks: Array) -> Array:
    """Return desire inputs (F, 25, 8): rising edges of ``desire`` (T, 8), newest last.

    As openpilot fills its buffer: the first desire (none) never counts, a pulse lasts one tick, and
    four ticks are joined by their maximum.
    """
    level = desire.copy()
    level[:, 0] = 0.0
    rising = np.diff(level, axis=0, prepend=np.zeros_like(level[:1])) > 0.99
    padded = np.concatenate([np.zeros((HISTORY - 1, level.shape[1]), bool), rising])
    windows = np.stack([padded[t : t + HISTORY] for t in ticks])
    grouped = windows.reshape(len(ticks), HISTORY // STRIDE, STRIDE, -1).max(axis=2)
    return grouped.astype(np.float32)


def pairs(shard: Shard, name: str) -> Array:
    """Return the images (F, 12, 128, 256): the frame 0.2 s before, zeros before the first, and this.

    Frames are at multiples of 4 ticks apart (5 Hz) or at every tick (20 Hz).
    """
    planes, ticks = shard.read(name), shard.read("frame_tick")
    found = np.searchsorted(ticks, ticks - IMAGE_LAG)
    there = (found < len(ticks)) & (ticks[np.minimum(found, len(ticks) - 1)] == ticks - IMAGE_LAG)
    older = np.where(there[:, None, None, None], planes[np.minimum(found, len(ticks) - 1)], 0)
    return np.concatenate([older, planes], axis=1)


def convert(shard: Shard) -> dict[str, Array]:
    """Return the specification's arrays of a shard, F in front of each."""
    count = shard.frames
    out: dict[str, Array] = {
        name: (pairs(shard, name).astype(np.float32) / 255).astype(np.float16)
        for name in ("img", "big_img")
    }
    out["features_buffer"] = np.zeros((count, HISTORY // STRIDE, FEATURES), np.float32)
    out["hidden_state"] = np.zeros((count, FEATURES), np.float32)
    out["desire"] = history(shard.read("desire"), shard.read("frame_tick"))
    for name in ("traffic_convention", "meta", "desire_pred", "lead_prob", "desire_state"):
        out[name] = shard.read(name)
    for name in (
        "pose", "wide_from_device_euler", "road_transform", "lane_lines", "road_edges", "plan",
    ):  # fmt: skip
        out[name] = _spread(shard.read(name))
    out["lead"] = _spread(shard.read("lead"))
    probability = np.clip(shard.read("lane_lines_prob"), 1e-3, 1 - 1e-3)
    # Two values for each line, of which openpilot reads the second.
    logit = np.log(probability / (1 - probability))
    out["lane_lines_prob"] = np.stack([-logit, logit], axis=-1)
    return out


def _spread(values: Array) -> Array:
    return np.stack([values, np.full_like(values, LOG_STD)], axis=-1)
