"""What runs a network: torch, onnxruntime or tinygrad, behind one method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from steerlab.errors import InputError, unknown_name
from steerlab.openpilot.metadata import slices_from_properties
from steerlab.openpilot.onnx_file import (
    external_files,
    graph_inputs,
    one_line,
    read_onnx,
    static_shape,
)
from steerlab.openpilot.tinygrad import TinygradEngine
from steerlab.readers.graphs import open_session, read_graph
from steerlab.types import Array

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
        """Return the outputs by name, each (B, ...), for inputs (B, ...); all rows at once."""
        found = self.module(*(torch.as_tensor(inputs[name]) for name in self.input_names))
        found = [found] if isinstance(found, torch.Tensor) else found
        return {n: t.numpy() for n, t in zip(self.output_names, found, strict=True)}


class OnnxEngine:
    """An ONNX file in onnxruntime, one thread; a graph for one row gets the rows in turn."""

    def __init__(self, path: str | Path | bytes, threads: int = 1) -> None:
        self.source = "the graph" if isinstance(path, bytes) else repr(str(path))
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
        """Return the outputs by name, each (B, ...), for inputs (B, ...).

        Raises:
            InputError: The graph does not take these inputs, or fails on them.
        """
        if unknown := inputs.keys() - self.dtypes.keys():
            raise InputError(
                f"{self.source} has no input {min(unknown)!r}; it has {', '.join(self.dtypes)}"
            )
        feeds = {n: np.asarray(a, dtype=self.dtypes[n]) for n, a in inputs.items()}
        rows = len(next(iter(feeds.values()), ()))
        if not self.one_row or rows == 1:
            found = self._run(feeds)
        else:
            parts = [self._run({n: a[i : i + 1] for n, a in feeds.items()}) for i in range(rows)]
            found = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return dict(zip(self.output_names, found, strict=True))

    def _run(self, feeds: Mapping[str, Array]) -> list[Array]:
        try:
            return self.session.run(None, feeds)
        except Exception as error:  # onnxruntime's exceptions share no other base class
            raise InputError(
                f"onnxruntime cannot run {self.source}: {one_line(error)}; mend its inputs and "
                "operators"
            ) from error


class Network(NamedTuple):
    """An engine and where the heads are in its output."""

    engine: Engine
    slices: Mapping[str, slice]
    inputs: Mapping[str, tuple[int, ...]] = MappingProxyType({})  #: of the graph, where known


def load_network(path: str | Path, engine: str = "onnxruntime") -> Network:
    """Return an ONNX file with the slices from its ``metadata_props``.

    Raises:
        InputError: The file is no ONNX file, has no slices or does not run, or the engine is unknown.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    bare = read_onnx(path, weights=False, what="model file")
    proto = read_onnx(path) if external_files(bare) else bare
    slices = slices_from_properties({p.key: p.value for p in proto.metadata_props}, str(path))
    inputs = {n: static_shape(i) for n, i in graph_inputs(proto).items()}
    if engine == "onnxruntime":
        # It does not find every kind of constant in another file.
        return Network(
            OnnxEngine(proto.SerializeToString() if proto is not bare else path), slices, inputs
        )
    return Network(TinygradEngine(path), slices, inputs)


def session(path: str | Path | bytes, threads: int = 1) -> ort.InferenceSession:
    """Return an onnxruntime session, of a file or its contents, on the CPU with some threads.

    Raises:
        InputError: It is no ONNX file, or onnxruntime cannot run it.
    """
    if isinstance(path, bytes):
        return open_session(path, "the graph", threads)
    read_graph(path)
    return open_session(Path(path).read_bytes(), repr(str(path)), threads)
