"""PyTorch modules as ONNX files, checked against the module before anyone uses them."""

import inspect
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
from numpy.typing import NDArray
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor, nn

from steerlab.errors import InputError
from steerlab.files import atomic_path
from steerlab.openpilot.engines import session
from steerlab.readers.graphs import write_graph


def export_onnx(
    model: nn.Module,
    example: Sequence[Tensor],
    path: str | Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
    *,
    dynamic_batch: bool = True,
    opset: int = 18,
    metadata: Mapping[str, str] | None = None,
    tolerance: float = 1e-4,
) -> float:
    """Write ``model`` to one ONNX file and prove that onnxruntime computes what torch does.

    Args:
        model: Module in evaluation mode; its forward takes the inputs in order.
        example: One tensor (B, ...) an input, batch axis first. Use a batch of at least 2 with
            ``dynamic_batch``, since the exporter may take a size of 1 for a constant.
        path: Where the file goes; it appears only if the check passes.
        input_names: Names of the inputs in the graph.
        output_names: Names of the outputs in the graph.
        dynamic_batch: Leave the first axis of every input free.
        opset: Version of the operator set.
        metadata: Entries of the file's ``metadata_props``.
        tolerance: Largest difference between torch and onnxruntime that is accepted, of values
            beyond 1 as a share of the value: float32 resolves 200 m to 1.5e-5 m at best.

    Returns:
        The largest difference, in that sense, that was found on ``example``.

    Raises:
        InputError: The two differ by more than ``tolerance``.
    """
    model.eval()
    # It would say for each export that torchvision, which nobody here needs, is not installed.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with atomic_path(path) as temporary:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                tuple(example),
                str(temporary),
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_shapes=_free_batch(model, len(example)) if dynamic_batch else None,
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        _tidy(temporary, metadata or {})
        difference = _largest_difference(model, example, str(temporary), input_names)
        if not difference <= tolerance:
            raise InputError(
                f"{str(path)!r}: onnxruntime and torch differ by {difference:.3g}, more than "
                f"{tolerance:g}; export in float32 and without dropout, or raise the tolerance"
            )
    return difference


def _free_batch(model: nn.Module, count: int) -> tuple[Any, ...]:
    """Return the setting for torch.export by which the first axis of all inputs is free."""
    batch = torch.export.Dim("batch", min=1)
    shapes: tuple[Any, ...] = tuple({0: batch} for _ in range(count))
    kinds = {p.kind for p in inspect.signature(model.forward).parameters.values()}
    variadic = inspect.Parameter.VAR_POSITIONAL in kinds
    return (shapes,) if variadic else shapes  # torch.export counts *inputs as one


def _tidy(path: Path, metadata: Mapping[str, str]) -> None:
    """Write the graph anew: without the exporter's notes, with ``metadata``, checked."""
    proto = onnx.load(str(path))
    _forget_origin(proto.graph)
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.checker.check_model(proto, full_check=True)
    write_graph(path, proto)


def _forget_origin(graph: onnx.GraphProto) -> None:
    """Drop the exporter's notes: they name the folders of whoever exported, and are a third of it."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output,
                 *graph.initializer):  # fmt: skip
        del part.metadata_props[:]


def half_precision(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a float32 graph that computes in float16; inputs and outputs stay float32.

    Weights beyond float16's range are cut to it.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that are rounded or cut
        converted = convert_float_to_float16(copy, keep_io_types=True)
    # A constant that several nodes need in float32 gets its cast once for each of them.
    once = {tuple(node.output): node for node in converted.graph.node}
    del converted.graph.node[:]
    converted.graph.node.extend(once.values())
    half = onnx_ir.from_proto(converted)
    assert isinstance(half, onnx_ir.Model)
    half.graph.sort()  # the converter appends its casts at the end
    return onnx_ir.to_proto(half)


def _largest_difference(
    model: nn.Module, example: Sequence[Tensor], path: str, names: Sequence[str]
) -> float:
    with torch.no_grad():
        outputs = model(*example)
    expected: list[NDArray[np.float64]] = [
        o.double().cpu().numpy() for o in ([outputs] if isinstance(outputs, Tensor) else outputs)
    ]
    feeds = {n: t.cpu().numpy() for n, t in zip(names, example, strict=True)}
    found = session(path).run(None, feeds)
    return max(relative_difference(f, e) for e, f in zip(expected, found, strict=True))


def relative_difference(
    found: NDArray[Any], wanted: NDArray[Any], sizes: NDArray[Any] | None = None
) -> float:
    """Return the largest difference as a share of ``sizes``, by default |wanted| and at least 1."""
    sizes = np.maximum(1.0, np.abs(wanted)) if sizes is None else sizes
    return float((np.abs(found - wanted) / sizes).max())
