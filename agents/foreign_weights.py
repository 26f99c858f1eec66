"""Weights that another program wrote, read without executing anything in the file."""

from pathlib import Path

import torch
from torch import Tensor, nn

from steerlab.agents.checkpoint import read_archive
from steerlab.errors import InputError
from steerlab.openpilot.onnx_file import check_file


def read_weights(path: str | Path, like: nn.Module, what: str) -> dict[str, Tensor]:
    """Read a state dictionary that another program wrote, without executing anything in it.

    Args:
        path: A file of ``torch.save(model.state_dict(), path)``.
        like: The module whose names, shapes and types it must have.
        what: What it is, for the messages.

    Raises:
        InputError: There is no such file; it is a Git LFS pointer, damaged, holds anything else than
            these tensors, or numbers that are not finite.
    """
    path = check_file(path, what, "check the path")
    try:
        found = read_archive(path, "cpu")
    except Exception as error:  # torch, pickle and zip raise nearly anything
        raise InputError(
            f"{what} {str(path)!r} is no file of weights alone, or is damaged "
            f"({type(error).__name__}); fetch it again, and do not load it elsewhere"
        ) from error
    wanted = like.state_dict()
    if not isinstance(found, dict) or found.keys() != wanted.keys():
        names = found.keys() if isinstance(found, dict) else ()
        odd = sorted(map(str, wanted.keys() ^ set(names)))[:3]
        raise InputError(
            f"{what} {str(path)!r} is of another model: it differs in {', '.join(odd)}"
        )
    for name, tensor in wanted.items():
        values = found[name]
        if not isinstance(values, Tensor) or (values.shape, values.dtype) != (
            tensor.shape,
            tensor.dtype,
        ):
            is_tensor = isinstance(values, Tensor)
            shape = f"{tuple(values.shape)} {values.dtype}" if is_tensor else type(values).__name__
            raise InputError(
                f"{what} {str(path)!r} is of another model: {name} is {shape}, not "
                f"{tuple(tensor.shape)} {tensor.dtype}"
            )
        if not torch.isfinite(values).all():
            raise InputError(f"{what} {str(path)!r}: {name} holds numbers that are not finite")
    return dict(found)
