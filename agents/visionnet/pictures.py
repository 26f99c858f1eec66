"""Labels and the network's outputs for the same frames, side by side, to look at."""

from collections.abc import Sequence

import numpy as np
import torch

from steerlab.agents.visionnet.data import CAMERAS, FramePairs
from steerlab.agents.visionnet.network import VisionNet
from steerlab.envs.cameras.geometry import NARROW, WIDE
from steerlab.envs.shards.pictures import DRAWN, calibrated_view, draw_labels, rgb
from steerlab.envs.shards.read import open_shard
from steerlab.openpilot.outputs import parse
from steerlab.types import Array, Bytes


@torch.no_grad()
def compare_pictures(network: VisionNet, pairs: FramePairs, chosen: Sequence[int]) -> Bytes:
    """Return a sheet: labels on the left, the network's on the right, narrow above wide camera.

    Args:
        network: Evaluated in evaluation mode; its mode stays.
        pairs: Where the frames come from.
        chosen: Their numbers.

    Returns:
        (512 * len(chosen), 1024, 3).
    """
    training, device = network.training, network.mean.device
    network.eval()
    rows = []
    for index in chosen:
        which, frame = pairs.place(index)
        shard = open_shard(pairs.paths[which])
        label = {name: shard.read(name, frame) for name in DRAWN}
        seen = pairs[index]
        images = [torch.as_tensor(seen[name])[None].to(device) for name in CAMERAS]
        flat = network(*images).float().cpu().numpy()
        views = [calibrated_view(shard.mount, camera) for camera in (NARROW, WIDE)]
        sides = [
            [
                draw_labels(rgb(seen[name][6:]), view, drawn, shard.mount)
                for name, view in zip(CAMERAS, views, strict=True)
            ]
            for drawn in (label, _said(network, flat, label))
        ]
        rows.append(np.concatenate([np.concatenate(side) for side in sides], axis=1))
    network.train(training)
    return np.concatenate(rows)


def _said(network: VisionNet, flat: Array, label: dict[str, Array]) -> dict[str, Array]:
    """Return what the network says in the arrays of a label; it has no plan."""
    said = {name: values[0] for name, values in parse(network.model.slices, flat).items()}
    found = {name: said[name] for name in ("lane_lines", "road_edges", "lead", "lead_prob")}
    found["lane_lines_prob"] = said["lane_lines_prob"][1::2]
    for name in ("lane_lines", "road_edges"):
        found[f"{name}_valid"] = np.ones_like(label[f"{name}_valid"])
    none = {name: np.zeros_like(label[name]) for name in ("plan", "plan_valid")}
    return found | none
