"""The mirror image of a moment: both pictures, and what all labels say of it.

A world seen in a mirror is a world that the cameras could see, in which traffic keeps to the other
side. It shows a training a second one for each that was rendered.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.openpilot.contracts import DESIRES, YUV_PHASES
from steerlab.types import Bytes

_PLANES = len(YUV_PHASES) + 2  # of a frame
_SIDES = {"Left": "Right", "Right": "Left"}
#: Index of each desire's mirror image.
_DESIRES = [
    DESIRES.index(next((d.replace(a, b) for a, b in _SIDES.items() if a in d), d)) for d in DESIRES
]
_BLINKERS = 31  # the first of ``meta``'s groups of gas, brake, left and right blinker
#: Index of each value of ``meta``'s mirror image.
_META = [i + {2: 1, 3: -1}.get((i - _BLINKERS) % 4, 0) if i >= _BLINKERS else i for i in range(55)]
#: Places of values that change their sign: to the side, roll and yaw, in device axes.
_SIGNS: dict[str, tuple[int, ...]] = {
    "lane_lines": (0,), "road_edges": (0,), "lead": (1,), "pose": (1, 3, 5),
    "road_transform": (1, 3, 5), "wide_from_device_euler": (0, 2),
    "plan": (1, 4, 7, 9, 11, 12, 14), "driven": (1, 4, 7, 9, 11, 12, 14),
}  # fmt: skip
#: Labels whose entries change places, by the axis, counted from the end.
_ORDERS: dict[str, tuple[int, list[int]]] = {
    "lane_lines": (-3, [3, 2, 1, 0]), "lane_lines_valid": (-2, [3, 2, 1, 0]),
    "lane_lines_prob": (-1, [3, 2, 1, 0]), "road_edges": (-3, [1, 0]),
    "road_edges_valid": (-2, [1, 0]), "desire_pred": (-1, _DESIRES), "meta": (-1, _META),
    "meta_valid": (-1, _META), "desire": (-1, _DESIRES), "desire_state": (-1, _DESIRES),
    "traffic_convention": (-1, [1, 0]),
}  # fmt: skip


def mirror_pictures(pair: Bytes) -> Bytes:
    """Return image pairs (..., 12, 128, 256) as a camera sees them in a mirror.

    The axis goes through the middle of the picture, coordinate 256 of 512, where pixel ``i`` shows
    coordinate ``i``. So the even columns are turned round without the first, which keeps its place, and
    the colours, which lie between columns, are off by one pixel of the full picture.
    """
    turned = pair[..., ::-1].copy()
    for frame in range(0, pair.shape[-3], _PLANES):
        for channel, (_, column) in enumerate(YUV_PHASES):
            if column == 0:
                turned[..., frame + channel, :, 1:] = pair[..., frame + channel, :, :0:-1]
                turned[..., frame + channel, :, 0] = pair[..., frame + channel, :, 0]
    return turned


def mirror_labels(labels: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the labels of a moment, or of many, in the mirror; arrays as in shards, (..., *shape)."""
    found = dict(labels)
    for name in found.keys() & _ORDERS.keys():
        axis, order = _ORDERS[name]
        found[name] = np.take(found[name], order, axis=axis)
    for name in found.keys() & _SIGNS.keys():
        found[name] = found[name].copy()
        found[name][..., _SIGNS[name]] *= -1
    return found
