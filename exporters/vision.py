"""A trained vision network to the files of any generation that has one."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from steerlab.agents.visionnet.data import CAMERAS, FramePairs
from steerlab.agents.visionnet.network import VISION, VisionNet
from steerlab.envs.shards.read import Shard
from steerlab.errors import InputError
from steerlab.exporters.openpilot import Exported, Paths, export_model, paths
from steerlab.exporters.safety import vision_text
from steerlab.files import writable_folder
from steerlab.openpilot.contracts import Contract

_PROBES = 4  # frame pairs beside the file


class _Named(nn.Module):
    """The network before packing: the order of the heads is the target's."""

    def __init__(self, network: VisionNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, img: Tensor, big_img: Tensor) -> dict[str, Tensor]:
        return self.network.tensors(img, big_img)


def export_vision(
    network: VisionNet,
    folder: str | Path,
    run: str,
    *,
    target: Contract | None = None,
    shards: list[Shard] | None = None,
    places: Paths | None = None,
    half: bool = True,
    tinygrad: bool = True,
    tinygrad_path: str | Path | None = None,
) -> Exported:
    """Write the files of a vision network for a release.

    Args:
        network: The network. Its contract need not be the target, if that has the same heads.
        folder: Where the files go.
        run: Name of the training run, for ``model_checkpoint``.
        target: The release; by default that for which it was trained.
        shards: Episodes some of whose frames become the probe; by default that is noise.
        places: Other paths of the files.
        half: Write the float16 variant too.
        tinygrad: Write the tinygrad pickle too.
        tinygrad_path: Folder of the target's tinygrad.

    Raises:
        InputError: The target has no vision network, or another form of a head.
    """
    target = target or network.contract
    if VISION not in target.model_names:
        raise InputError(
            f"{target.id} is one network with its vision: export for {network.contract.id}, and give "
            "that file to export-policy as vision="
        )
    model = target.model(VISION, heads={"lead": network.model.heads["lead"].width})
    places = places or paths(folder, VISION)
    for path in vars(places).values():
        writable_folder(path.parent)
    done = export_model(
        _Named(network),
        target,
        model,
        folder,
        checkpoint=vision_text(run),
        probe_inputs=_frames(shards) if shards else None,
        half=half,
        tinygrad=tinygrad,
        tinygrad_path=tinygrad_path,
        places=places,
    )
    if not shards:
        done.notes.append("the probe holds noise, no pictures: give shards= for frames of a drive")
    return done


def _frames(shards: list[Shard]) -> dict[str, NDArray[Any]]:
    """Return frame pairs from all over the shards as inputs of the network."""
    pairs = FramePairs(shards)
    chosen = np.linspace(0, len(pairs) - 1, min(_PROBES, len(pairs))).astype(int)
    rows = [pairs[int(i)] for i in chosen]
    return {name: np.stack([row[name] for row in rows]) for name in CAMERAS}
