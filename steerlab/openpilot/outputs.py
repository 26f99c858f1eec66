"""Named tensors to the flat output of a network and back, and what the consumer reads from it.

:func:`pack` is differentiable and runs inside the exported graph; :func:`unpack` is its inverse;
:func:`parse` does to the vector what openpilot's ``Parser`` does (commaai/openpilot,
``selfdrive/modeld/parse_model_outputs.py``), without changing it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from steerlab.errors import InputError, unknown_name
from steerlab.openpilot.contracts import LOG_STD_CLIP, Head, Model, head_of_width, known_heads
from steerlab.types import Array


def pack(model: Model, tensors: Mapping[str, Tensor]) -> Tensor:
    """Lay named tensors out as the flat output.

    Args:
        model: Network of a contract, which says the order and the layouts.
        tensors: For every head those of ``Head.tensors``, each ``(B, *shape)``: means, logarithms of
            standard deviations (natural, before any activation) and logits.

    Returns:
        (B, N); the padding is zero.

    Raises:
        InputError: A tensor is missing, unknown or of another shape.
    """
    wanted = {n: s for head in model.heads.values() for n, s in head.tensors.items()}
    for name in tensors:
        if name not in wanted:
            raise unknown_name(f"tensor of {model.name}", name, wanted)
    for name, shape in wanted.items():
        if name not in tensors:
            raise InputError(f"{model.name} needs the tensor {name!r} of shape (B, {shape})")
        if tuple(tensors[name].shape[1:]) != shape:
            raise InputError(
                f"tensor {name!r} has shape {tuple(tensors[name].shape)}, not (B, *{shape})"
            )
    parts = [pack_head(head, tensors) for head in model.heads.values()]
    missing = model.length - sum(head.width for head in model.heads.values())
    if missing:
        parts.append(parts[0].new_zeros(parts[0].shape[0], missing))
    return torch.cat(parts, dim=1)


def pack_head(head: Head, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the part (B, width) of the flat output that a head takes; see :func:`pack`."""
    start = 2 if head.kind == "mixture" else 1
    return torch.cat([tensors[name].flatten(start) for name in head.tensors], dim=-1).flatten(1)


def unpack(model: Model, flat: ArrayLike) -> dict[str, Array]:
    """Return the tensors that :func:`pack` would take for the vector ``flat`` (B, N).

    Raises:
        InputError: The vector has another length.
    """
    flat = np.asarray(flat)
    if flat.ndim != 2 or flat.shape[1] != model.length:
        raise InputError(f"outputs have shape {flat.shape}, {model.name} has (B, {model.length})")
    return {
        name: values
        for head in model.heads.values()
        for name, values in _split(head, flat[:, model.slices[head.name]]).items()
    }


def _split(head: Head, part: Array) -> dict[str, Array]:
    """Return the tensors of one head from its part of the vector (B, width)."""
    lead: tuple[int, ...] = (len(part),)
    if head.kind == "mixture":
        lead = (len(part), head.hypotheses)
        part = part.reshape(*lead, -1)
    tensors, start = {}, 0
    for name, shape in head.tensors.items():
        own = shape[1:] if head.kind == "mixture" else shape
        size = int(np.prod(own))
        tensors[name] = part[..., start : start + size].reshape(*lead, *own)
        start += size
    return tensors


def parse(slices: Mapping[str, slice], flat: ArrayLike) -> dict[str, Array]:
    """Return what the consumer reads from a vector.

    Args:
        slices: Places of the heads, as in ``Model.slices`` or a file's metadata. Layouts follow
            from the widths; names that no consumer knows are left out.
        flat: (B, N).

    Returns:
        Under the head's name the mean, probabilities or raw values, ``(B, *shape)``; for Gaussian
        heads also ``<name>_stds``. Mixture heads give the best hypothesis and, as
        ``<name>_weights``, ``<name>_hypotheses`` and ``<name>_stds_hypotheses``, all of them
        (sorted by weight where there is one selection). Best for selection s of a head with
        several is in row s.

    Raises:
        InputError: A head has a width that no consumer knows.
    """
    flat = np.asarray(flat)
    parsed: dict[str, Array] = {}
    for name, place in slices.items():
        if name in known_heads():
            part = flat[:, place]
            parsed |= _parse_head(head_of_width(name, part.shape[1]), part)
    return parsed


def _parse_head(head: Head, part: Array) -> dict[str, Array]:
    tensors = _split(head, part)
    name = head.name
    if head.kind == "raw":
        return {name: tensors[name].copy()}
    if head.kind == "sigmoid":
        return {name: 1.0 / (1.0 + _safe_exp(-tensors[f"{name}_logits"]))}
    if head.kind == "softmax":
        return {name: _softmax(tensors[f"{name}_logits"], -1)}
    mean, std = tensors[name], _safe_exp(tensors[f"{name}_log_std"])
    if head.kind == "gaussian":
        return {name: mean.copy(), f"{name}_stds": std}
    weights = _softmax(tensors[f"{name}_logits"], axis=1)  # (B, hypotheses, selections)
    rows = np.arange(len(part))[:, None]
    order = np.argsort(weights, axis=1)[:, ::-1]
    if head.selections == 1:
        by_weight = order[..., 0]
        weights, mean, std = (x[rows, by_weight] for x in (weights, mean, std))
        best: Any = np.zeros((1, 1), dtype=int)
    else:
        best = order[:, 0]  # (B, selections)
    squeeze = (slice(None), 0) if head.selections == 1 else slice(None)
    return {
        name: mean[rows, best][squeeze],
        f"{name}_stds": std[rows, best][squeeze],
        f"{name}_weights": weights,
        f"{name}_hypotheses": mean.copy(),
        f"{name}_stds_hypotheses": std,
    }


def _safe_exp(x: Array) -> Array:
    return np.exp(np.minimum(x, LOG_STD_CLIP))


def _softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)
