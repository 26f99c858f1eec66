"""The checkpoint of a driving pair: the vision network and the policy behind it, in one file.

``vision`` and ``policy`` each hold the settings from which a network is built (plain values) and its
``state``. Either may be None: a pair is trained in stages, and the file says how far it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steerlab.agents.checkpoint import checkpoint_bytes, fitting, load_checkpoint
from steerlab.agents.visionnet.network import VisionNet
from steerlab.errors import InputError
from steerlab.files import atomic_path, writable_folder

KIND = "a driving pair"
FOLDER = Path("artifacts", "checkpoints")  # in the folder of a run
#: The trained pair of the package, ``checkpoint=steerlab``; ``steerlab_pair.md`` beside it is its card.
SHIPPED = Path(__file__).with_name("steerlab_pair.pt")
#: Settings and state of a network.
Part = dict[str, Any]


def vision_part(network: VisionNet, weights: nn.Module | None = None) -> Part:
    """Return the part of a checkpoint that a vision network makes.

    Args:
        network: What is known about it.
        weights: Another module with its weights, such as their average; by default its own.
    """
    state = (weights or network).state_dict()
    return {
        "size": network.size,
        "contract": network.contract.id,
        "lead": network.model.heads["lead"].width,
        "state": {name: values.detach().cpu().clone() for name, values in state.items()},
    }


def save_driving(
    path: str | Path, vision: Part | None, policy: Part | None, told: Mapping[str, Any]
) -> Path:
    """Write a checkpoint atomically; its folder is made if needed.

    Args:
        path: The file.
        vision: Part of the vision network, see :func:`vision_part`.
        policy: Part of the policy: its settings and, as ``state``, its state dictionary.
        told: Plain values that say where it comes from, such as ``stage`` and ``epoch``.
    """
    writable_folder(Path(path).parent)
    contents = {"vision": vision, "policy": policy, "told": dict(told)}
    with atomic_path(path) as temporary:
        temporary.write_bytes(checkpoint_bytes(KIND, contents))
    return Path(path)


def checkpoint_path(name: str | Path) -> Path:
    """Return the file of a checkpoint; the name ``steerlab`` stands for the pair of the package."""
    return SHIPPED if str(name) == "steerlab" else Path(name)


def save_half(source: str | Path, target: str | Path) -> Path:
    """Write a checkpoint with its weights in float16, half the size; networks load it like any other.

    Vectors, such as biases and means, stay float32.

    Raises:
        InputError: ``source`` is no checkpoint of a driving pair.
    """
    found = load_driving(source)
    for part in (found["vision"], found["policy"]):
        if part is not None:
            part["state"] = {
                name: values.half() if values.is_floating_point() and values.ndim > 1 else values
                for name, values in part["state"].items()
            }
    return save_driving(target, **found)


def load_driving(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return ``vision``, ``policy`` (each a part, or None) and ``told`` of a checkpoint.

    Args:
        path: The file, or ``steerlab`` for the pair of the package.
        device: Where its tensors go.

    Raises:
        InputError: There is no such file, or it is no checkpoint of a driving pair.
    """
    path = checkpoint_path(path)
    found = load_checkpoint(path, KIND, device)
    with fitting(path, KIND):
        return {"vision": found["vision"], "policy": found["policy"], "told": dict(found["told"])}


def load_vision(path: str | Path, device: torch.device | str = "cpu") -> VisionNet:
    """Return the vision network of a checkpoint, in evaluation mode.

    Raises:
        InputError: It is no checkpoint of a driving pair, has no vision network, or a damaged one.
    """
    part = load_driving(path)["vision"]
    if part is None:
        raise InputError(
            f"{str(path)!r} has no vision network; give one of steerlab train-driving stage=vision"
        )
    with fitting(path, KIND):
        network = VisionNet(part["size"], part["contract"], part["lead"])
        network.load_state_dict(part["state"])
    return network.to(device).eval()


def newest(folder: str | Path) -> Path | None:
    """Return the checkpoint of the last epoch in the folder of a run, None if there is none."""
    return max(Path(folder, FOLDER).glob("epoch_*.pt"), default=None)
