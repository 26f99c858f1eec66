"""Plants that onnxruntime runs, and the check that a file has comma's signature."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steerlab.errors import InputError
from steerlab.readers.graphs import open_session, read_graph
from steerlab.surrogates.plants.base import CONTEXT, Plant, cumulative, draw
from steerlab.surrogates.plants.tokens import VOCABULARY
from steerlab.surrogates.segments.comma import MODEL_SHA256
from steerlab.types import Singles

if TYPE_CHECKING:  # loaded where a file is read: a process that is handed graphs does without
    import onnx


class OnnxPlant(Plant):
    """An ONNX file with comma's signature, run by onnxruntime on one CPU thread.

    Draws come from a quicker graph where there is one, which computes only the last of the 20
    positions and each GELU at once. Its cumulative probabilities differ in the last bits, by about
    1e-5. So where a uniform number is within :data:`SLACK` of the edge between two tokens, the graph as
    it is decides: draws are those of the file.

    Args:
        path: The file.
        fast: Use the quicker graph for all; then a draw can flip now and then (see
            docs/tinyphysics.md).

    Raises:
        InputError: The file is no ONNX model, or its inputs or output are others.
    """

    #: Rows given to onnxruntime at once: beyond this, activations fall out of the caches.
    CHUNK = 64
    #: Cumulative probability on either side of an edge between two tokens that is looked at twice.
    SLACK = 2e-4

    def __init__(self, path: str | Path, fast: bool = False) -> None:
        self._start(Path(path), fast, _graphs(Path(path), fast))

    def _start(self, path: Path, fast: bool, graphs: tuple[bytes, bytes | None]) -> None:
        self.path, self.fast, self._graphs = path, fast, graphs
        whole, quick = graphs
        self._quick = None if quick is None else open_session(quick, f"plant {str(path)!r}")
        self._whole = (
            self._quick if fast and self._quick else open_session(whole, f"plant {str(path)!r}")
        )
        if not fast and self._quick:
            self._keep_quick_if_it_agrees()

    def logits(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> Singles:
        """Return the logits (B, 1024) of the next token."""
        return self._run(self._whole, states, tokens)

    def sample(
        self,
        states: NDArray[np.float32],
        tokens: NDArray[np.int64],
        uniforms: NDArray[np.float64],
    ) -> NDArray[np.intp]:
        """Return the next tokens (B,), drawn with one uniform number in [0, 1) a row."""
        if self.fast or self._quick is None:
            return draw(self.logits(states, tokens), uniforms)
        cdf = cumulative(self._run(self._quick, states, tokens))
        drawn = (cdf <= uniforms[:, None]).sum(axis=-1)
        rows = np.arange(len(drawn))
        above, below = cdf[rows, drawn], np.where(drawn > 0, cdf[rows, drawn - 1], -1.0)
        close = np.minimum(above - uniforms, uniforms - below) < self.SLACK
        for row in np.flatnonzero(close):  # one at a time, as the official simulator asks
            one = slice(row, row + 1)
            exact = cumulative(self._run(self._whole, states[one], tokens[one]))
            if np.abs(exact - cdf[row]).max() > self.SLACK / 2:  # no draw so far was in danger
                self._quick = None
                return draw(self.logits(states, tokens), uniforms)
            drawn[row] = (exact <= uniforms[row]).sum()
        return drawn

    def _run(self, session: Any, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> Singles:
        parts = []
        for start in range(0, len(states), self.CHUNK):
            rows = slice(start, start + self.CHUNK)
            feeds = {"states": states[rows], "tokens": tokens[rows]}
            try:
                found = session.run(None, feeds)[0]
            except Exception as error:  # onnxruntime's exceptions share no other base class
                reason = str(error).partition("\n")[0]
                raise InputError(f"plant {str(self.path)!r} cannot run: {reason}") from error
            if found.ndim != 3 or len(found) != len(states[rows]):
                raise InputError(f"plant {str(self.path)!r} answers with shape {found.shape}")
            parts.append(found[:, -1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _keep_quick_if_it_agrees(self) -> None:
        """Hold the quicker graph against the other on some histories; a wide margin is asked for."""
        rng = np.random.default_rng(0)
        states = rng.normal(0, 0.5, (8, CONTEXT, 4)).astype(np.float32)
        states[..., 2] = rng.uniform(0, 35, (8, 1))
        tokens = rng.integers(400, 620, (8, 1)) + rng.integers(-4, 5, (8, CONTEXT))
        both = [cumulative(self._run(s, states, tokens)) for s in (self._quick, self._whole)]
        if not np.abs(both[0] - both[1]).max() < self.SLACK / 4:
            self._quick = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.path, self.fast, self._graphs)  # a session cannot be pickled


def _restored(path: Path, fast: bool, graphs: tuple[bytes, bytes | None]) -> OnnxPlant:
    """Return a plant from its graphs, without the file."""
    plant = OnnxPlant.__new__(OnnxPlant)
    plant._start(path, fast, graphs)
    return plant


def _graphs(path: Path, fast: bool) -> tuple[bytes, bytes | None]:
    """Return the graph of a file, and a quicker one for draws if there is one.

    Fused GELUs move logits by 3e-5. Draws of the exact runtime are held against the whole graph where that
    counts; those of the fast one are not, so its graph leaves them as they are.
    """
    from steerlab.surrogates.plants.fused_gelu import fuse_gelu
    from steerlab.surrogates.plants.last_position import keep_last_position

    model = read_model(path)
    try:
        quick = keep_last_position(model)
        quick = quick if fast else fuse_gelu(quick)
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError):
        return model.SerializeToString(), None  # of no form that can be cut
    changed = len(quick.graph.node) != len(model.graph.node)
    return model.SerializeToString(), quick.SerializeToString() if changed else None


def read_model(path: str | Path) -> "onnx.ModelProto":
    """Read an ONNX file and prove that it has comma's signature.

    Raises:
        InputError: It does not exist, is no ONNX model, or has other inputs or outputs.
    """
    import onnx

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
