"""Plants: what the next lateral-acceleration token is, given 20 steps of history.

A plant has comma's signature: ``states`` float32 (B, 20, 4) are (steer, roll_lataccel, v_ego,
a_ego), ``tokens`` int64 (B, 20) are the past lateral accelerations, one step older than the states.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from steerlab.errors import InputError, unknown_name
from steerlab.surrogates.comma_data import fetched, model_path
from steerlab.surrogates.last_position import keep_last_position
from steerlab.surrogates.tokens import BINS, VOCABULARY

CONTEXT = 20  # steps of history
TEMPERATURE = 0.8
RUNTIMES = ("exact", "fast", "torch")
#: The bundled plant; default_plant.md beside it tells how it was made.
DEFAULT_PLANT = Path(__file__).with_name("default_plant.onnx")

Logits = NDArray[np.float32]


class Plant(ABC):
    """Predicts the next token of B rows; no row influences another."""

    @abstractmethod
    def logits(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> Logits:
        """Return the logits (B, 1024) of the next token."""

    def sample(
        self,
        states: NDArray[np.float32],
        tokens: NDArray[np.int64],
        uniforms: NDArray[np.float64],
    ) -> NDArray[np.intp]:
        """Return the next tokens (B,), drawn with one uniform number in [0, 1) a row."""
        return draw(self.logits(states, tokens), uniforms)

    def expect(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the expected next lateral acceleration (B,), m/s^2, at the sampling temperature."""
        return probabilities(self.logits(states, tokens)) @ BINS


def probabilities(logits: Logits) -> Logits:
    """Return the float32 probabilities that the official simulator draws from."""
    scaled = logits / np.float32(TEMPERATURE)
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def draw(logits: Logits, uniforms: NDArray[np.float64]) -> NDArray[np.intp]:
    """Draw one token a row exactly as ``numpy.random.choice(1024, p=...)`` does from its uniform."""
    cdf = np.cumsum(probabilities(logits), axis=-1, dtype=np.float64)
    cdf /= cdf[:, -1:]
    return (cdf <= uniforms[:, None]).sum(axis=-1)


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
            model = keep_last_position(model)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no other base class
            reason = str(error).partition("\n")[0]
            raise InputError(f"onnxruntime cannot run plant {str(path)!r}: {reason}") from error

    def logits(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> Logits:
        """Return the logits (B, 1024) of the next token."""
        parts = []
        for start in range(0, len(states), self.CHUNK):
            rows = slice(start, start + self.CHUNK)
            feeds = {"states": states[rows], "tokens": tokens[rows]}
            parts.append(self._session.run(None, feeds)[0][:, -1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.fast)  # a session cannot be pickled


class AnalyticPlant(Plant):
    """A small stand-in for a learned plant: dead time, lag and a gain that falls with low speed.

    The lateral acceleration follows the steer through a dead step and a second-order lag; its
    steady state is ``gain(v) * steer`` plus a share of the road's roll. The numbers resemble the
    step response of comma's model (one dead step, half the response at the third step, 1.76 m/s^2
    per unit steer, 2.05 above 30 m/s); the predictive deviation of 0.035 m/s^2 is that model's too.
    It is no model of any car.
    """

    RESPONSE = np.array([0.0, 0.19, 0.35, 0.22, 0.12, 0.07, 0.05])  # share per step of delay
    DEVIATION = 0.035  # m/s^2, of the draws at the sampling temperature
    PERSISTENCE = 0.9  # of a deviation from the steady state, per step
    ROLL_SHARE = 0.3  # of roll_lataccel that is not compensated by the driver's lane

    @staticmethod
    def gain(v_ego: NDArray[Any]) -> NDArray[Any]:
        """Return the steady lateral acceleration per unit steer, m/s^2, at a speed in m/s."""
        return 2.05 * v_ego / (v_ego + 4.0)

    def mean(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the mean (B,) of the next lateral acceleration, m/s^2."""
        steer, roll, speed = (states[..., i].astype(np.float64) for i in range(3))
        wanted = self.gain(np.maximum(speed, 0.0)) * steer + self.ROLL_SHARE * roll
        delays = len(self.RESPONSE)
        weights = self.RESPONSE[::-1]
        # Summed term by term: a matrix product may round a row by the size of its batch.
        now = sum(w * wanted[:, CONTEXT - delays + k] for k, w in enumerate(weights))
        before = sum(w * wanted[:, CONTEXT - delays - 1 + k] for k, w in enumerate(weights))
        return now + self.PERSISTENCE * (BINS[tokens[:, -1]] - before)

    def logits(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> Logits:
        """Return the logits (B, 1024) of the next token."""
        distance = (BINS - self.mean(states, tokens)[:, None]) / self.DEVIATION
        return (-0.5 * TEMPERATURE * distance**2).astype(np.float32)


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
    try:
        model = onnx.load(str(path))
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
    return model


def load_plant(plant: str | Path | Plant, runtime: str = "exact", device: str = "auto") -> Plant:
    """Return a plant ready to run.

    Args:
        plant: "default" (the bundled one), "analytic", "comma" (as fetched), the path of an ONNX
            file, or a plant.
        runtime: "exact" (onnxruntime, the graph as it is), "fast" (onnxruntime, last position
            only) or "torch"; has no meaning for the analytic plant.
        device: Device of the torch runtime: auto, cpu or cuda.

    Raises:
        InputError: The plant or runtime is unknown, or the file is not valid.
    """
    if isinstance(plant, Plant):
        return plant
    if runtime not in RUNTIMES:
        raise unknown_name("runtime", runtime, RUNTIMES)
    if str(plant) == "analytic":
        return AnalyticPlant()
    if str(plant) == "default":
        plant = DEFAULT_PLANT
    elif str(plant) == "comma":
        plant = fetched(model_path())
    if runtime == "torch":
        from steerlab.surrogates.torch_plant import TorchPlant

        return TorchPlant(plant, device)
    return OnnxPlant(plant, fast=runtime == "fast")
