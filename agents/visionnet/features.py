"""The features that a vision network makes of an episode, for whoever learns from them."""

import numpy as np
import torch
from numpy.typing import NDArray

from steerlab.agents.visionnet.data import CAMERAS, FramePairs
from steerlab.agents.visionnet.network import VisionNet
from steerlab.envs.shards.read import Shard

_BATCH = 32


@torch.no_grad()
def episode_features(network: VisionNet, shard: Shard) -> NDArray[np.float32]:
    """Return ``hidden_state`` of all F frames of a shard, (F, 512), from its clean frames.

    The network is evaluated on the device where it is, in evaluation mode; its mode stays.
    """
    pairs, device = FramePairs([shard]), network.mean.device
    training = network.training
    network.eval()
    found = []
    for first in range(0, len(pairs), _BATCH):
        rows = [pairs[i] for i in range(first, min(first + _BATCH, len(pairs)))]
        seen = [torch.as_tensor(np.stack([row[name] for row in rows])) for name in CAMERAS]
        found.append(network.features(*(images.to(device) for images in seen)).cpu().numpy())
    network.train(training)
    return np.concatenate(found)
