"""The features that a vision network makes of an episode, for whoever learns from them."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from steerlab.agents.visionnet.data import CAMERAS, FramePairs
from steerlab.agents.visionnet.kept import kept_array
from steerlab.agents.visionnet.mirror import mirror_pictures
from steerlab.agents.visionnet.network import VisionNet
from steerlab.envs.shards.read import Shard
from steerlab.openpilot.contracts import FEATURES

_BATCH = 32


def episode_features(
    network: VisionNet, shard: Shard, cache: str | Path = "", mirrored: bool = False
) -> NDArray[np.float32]:
    """Return ``hidden_state`` of all F frames of a shard, (F, 512), from its clean frames.

    The network is evaluated on the device where it is, in evaluation mode; its mode stays.

    Args:
        network: The network.
        shard: The episode.
        cache: Folder that keeps features, for the next call with the same weights; '' keeps none.
        mirrored: Take the mirror images of the frames.

    Raises:
        InputError: A file in ``cache`` is damaged, or it cannot be written.
    """
    name = f"{'mirrored_' * mirrored}features_{_weights_hash(network)}" if cache else ""
    shape = shard.frames, FEATURES
    return kept_array(cache, shard, name, shape, lambda: _computed(network, shard, cache, mirrored))


@torch.no_grad()
def _computed(
    network: VisionNet, shard: Shard, cache: str | Path, mirrored: bool
) -> NDArray[np.float32]:
    pairs, device = FramePairs([shard], cache=cache), network.mean.device
    training = network.training
    network.eval()
    found = []
    for first in range(0, len(pairs), _BATCH):
        rows = [pairs[i] for i in range(first, min(first + _BATCH, len(pairs)))]
        seen = [np.stack([row[name] for row in rows]) for name in CAMERAS]
        images = [torch.as_tensor(mirror_pictures(x) if mirrored else x).to(device) for x in seen]
        found.append(network.features(*images).cpu().numpy())
    network.train(training)
    return np.concatenate(found)


def _weights_hash(network: VisionNet) -> str:
    """Return what tells networks apart: a hash of all weights."""
    digest = hashlib.sha256()
    for name, values in network.state_dict().items():
        digest.update(name.encode())
        digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
