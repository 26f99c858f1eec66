"""The one checkpoint format: a dictionary of tensors and plain values in one file."""

from pathlib import Path
from typing import Any

import torch

from steerlab.errors import InputError
from steerlab.files import atomic_path


def save_checkpoint(path: str | Path, contents: dict[str, Any]) -> None:
    """Write ``contents`` (tensors, numbers, strings, lists and dictionaries of them) atomically."""
    with atomic_path(path) as temporary:
        torch.save(contents, temporary)


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint without executing anything in it (``weights_only``).

    Raises:
        InputError: There is no such file, or it is not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no checkpoint {str(path)!r}; check the path")
    try:
        contents = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise InputError(
            f"{str(path)!r} is not a steerlab checkpoint or is damaged "
            f"({type(error).__name__}); use another checkpoint or train again"
        ) from error
    if not isinstance(contents, dict):
        raise InputError(f"{str(path)!r} holds a {type(contents).__name__}, not a checkpoint")
    return contents
