"""Plants that onnxruntime runs, and the check that a file has comma's signature."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from steerlab.errors import InputError
from steerlab.readers.graphs import open_session, read_graph
from steerlab.surrogates.plants.base import CONTEXT, Logits, Plant
from steerlab.surrogates.plants.last_position import keep_last_position
from steerlab.surrogates.plants.tokens import VOCABULARY
from steerlab.surrogates.segments.comma import MODEL_SHA256


class OnnxPlant(Plant):
    """An ONNX file with comma's signature, run by onnxruntime on one CPU thread.

    Args:
        path: The file.
        fast: Compute only the last of the 20 positions where the graph allows it. Logits then
            differ in the last bits (see docs/tinyphysics.md), so a draw can flip now and then.

    Raises:
        InputError: The file is no ONNX model, or its inputs or output are others.
    """

    #: Rows given to onnxruntime at once: beyond this, activations fall out of the caches.
    CHUNK = 64

    def __init__(self, path: str | Path, fast: bool = False) -> None:
        self.path, self.fast = Path(path), fast
        model = read_model(self.path)
        if fast:
            try:
                model = keep_last_position(model)
            except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
                raise InputError(
                    f"plant {str(path)!r} cannot be cut to its last position "
                    f"({type(error).__name__}); use runtime=exact"
                ) from error
        self._session = open_session(model.SerializeToString(), f"plant {str(path)!r}")

    def logits(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> Logits:
        """Return the logits (B, 1024) of the next token."""
        parts = []
        for start in range(0, len(states), self.CHUNK):
            rows = slice(start, start + self.CHUNK)
            feeds = {"states": states[rows], "tokens": tokens[rows]}
            try:
                found = self._session.run(None, feeds)[0]
            except Exception as error:  # onnxruntime's exceptions share no other base class
                reason = str(error).partition("\n")[0]
                raise InputError(f"plant {str(self.path)!r} cannot run: {reason}") from error
            if found.ndim != 3 or len(found) != len(feeds["states"]):
                raise InputError(f"plant {str(self.path)!r} answers with shape {found.shape}")
            parts.append(found[:, -1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.fast)  # a session cannot be pickled


def read_model(path: str | Path) -> onnx.ModelProto:
    """Read an ONNX file and prove that it has comma's signature.

    Raises:
        InputError: It does not exist, is no ONNX model, or has other inputs or outputs.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"plant {str(path)!r} does not exist; give an ONNX file, 'comma' or 'default'"
        )
    model = read_graph(path, runs=False)
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"plant {str(path)!r} is not a valid ONNX model: {reason}") from error
    kinds = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64"}

    def signature(values: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
        found = {}
        for value in values:
            tensor = value.type.tensor_type
            shape = tuple(d.dim_value for d in tensor.shape.dim)[1:]
            found[value.name] = (kinds.get(tensor.elem_type, "another type"), shape)
        return found

    inputs, outputs = signature(model.graph.input), signature(model.graph.output)
    wanted = {"states": ("float32", (CONTEXT, 4)), "tokens": ("int64", (CONTEXT,))}
    if inputs != wanted:
        raise InputError(
            f"plant {str(path)!r} has inputs {inputs}; a TinyPhysics model has {wanted} "
            "after a free batch axis"
        )
    if list(outputs.values()) != [("float32", (CONTEXT, VOCABULARY))]:
        raise InputError(
            f"plant {str(path)!r} has outputs {outputs}; a TinyPhysics model has one, "
            f"float32 logits (b, {CONTEXT}, {VOCABULARY})"
        )
    return read_graph(path, trusted=(MODEL_SHA256,))  # it has the signature; now it must run, too
