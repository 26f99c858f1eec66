"""What runs a network: torch, onnxruntime or tinygrad, behind one method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from steerlab.errors import InputError, unknown_name
from steerlab.openpilot.metadata import slices_from_properties
from steerlab.openpilot.tinygrad import TinygradEngine

Array = NDArray[Any]


ENGINES = ("onnxruntime", "tinygrad")


class Engine(Protocol):
    """Something that runs a network."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name for inputs with a leading axis of rows."""


class TorchEngine:
    """A module, called with the inputs in the order of ``input_names``."""

    def __init__(
        self,
        module: nn.Module,
        input_names: Sequence[str],
        output_names: Sequence[str] = ("outputs",),
    ) -> None:
        self.module = module.eval()
        self.input_names, self.output_names = tuple(input_names), tuple(output_names)

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run every row at once."""
        found = self.module(*(torch.as_tensor(inputs[name]) for name in self.input_names))
        found = [found] if isinstance(found, torch.Tensor) else found
        return {n: t.numpy() for n, t in zip(self.output_names, found, strict=True)}


class OnnxEngine:
    """An ONNX file in onnxruntime, one thread; a graph for one row gets the rows in turn."""

    def __init__(self, path: str | Path | bytes, threads: int = 1) -> None:
        self.session = session(path, threads)
        self.dtypes = {
            i.name: {"tensor(uint8)": np.uint8, "tensor(float16)": np.float16}.get(
                i.type, np.float32
            )
            for i in self.session.get_inputs()
        }
        self.output_names = [o.name for o in self.session.get_outputs()]
        self.one_row = all(i.shape[:1] == [1] for i in self.session.get_inputs())

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the rows."""
        feeds = {n: np.asarray(a, dtype=self.dtypes[n]) for n, a in inputs.items()}
        rows = len(next(iter(feeds.values())))
        if not self.one_row or rows == 1:
            found = self.session.run(None, feeds)
        else:
            parts = [
                self.session.run(None, {n: a[i : i + 1] for n, a in feeds.items()})
                for i in range(rows)
            ]
            found = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return dict(zip(self.output_names, found, strict=True))


class Network(NamedTuple):
    """An engine and where the heads are in its output."""

    engine: Engine
    slices: Mapping[str, slice]
    inputs: Mapping[str, tuple[int, ...]] = MappingProxyType({})  # of the graph, where known


def load_network(path: str | Path, engine: str = "onnxruntime") -> Network:
    """Return an ONNX file with the slices from its ``metadata_props``.

    Raises:
        InputError: The file is no ONNX file, has no slices, or the engine is unknown.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    if not Path(path).is_file():
        raise InputError(f"there is no model file {str(path)!r}; check the path")
    try:
        proto = onnx.load(str(path))
    except Exception as error:  # protobuf's own, which is not public
        raise InputError(f"{str(path)!r} is not an ONNX file") from error
    slices = slices_from_properties({p.key: p.value for p in proto.metadata_props}, str(path))
    weights = {i.name for i in proto.graph.initializer}
    inputs = {
        i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim)
        for i in proto.graph.input
        if i.name not in weights
    }
    runs = OnnxEngine(path) if engine == "onnxruntime" else TinygradEngine(path)
    return Network(runs, slices, inputs)


def session(path: str | Path | bytes, threads: int = 1) -> ort.InferenceSession:
    """Return an onnxruntime session, of a file or its contents, on the CPU with some threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = path if isinstance(path, bytes) else str(path)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
