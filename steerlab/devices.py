"""Where torch computes."""

import torch

from steerlab.errors import InputError


def torch_device(name: str = "auto") -> torch.device:
    """Return the device of that name; ``auto`` is CUDA when there is one, else the CPU.

    Raises:
        InputError: torch does not know the name, or CUDA is asked for and absent.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device={name!r} is unknown; use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device={name!r}, but torch finds no CUDA GPU; use device=auto or cpu")
    return device
