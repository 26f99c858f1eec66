"""Inputs of a network with what it means for them, kept beside an exported file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from steerlab.errors import InputError
from steerlab.openpilot.contracts import Model
from steerlab.openpilot.images import I420
from steerlab.openpilot.onnx_file import check_file
from steerlab.readers.arrays import read_arrays, write_arrays
from steerlab.types import Array


@dataclass(frozen=True)
class Probe:
    """Reference inputs and outputs of a network: K sets of inputs, and what it answers to them.

    Arrays have the K sets first: outputs (K, N). ``meaning`` holds the parsed outputs, under the names
    that :func:`~steerlab.openpilot.outputs.parse` gives them.
    """

    inputs: Mapping[str, Array]  #: ``(K, *shape)`` of each
    outputs: Array  #: (K, N), of torch; empty if unknown
    meaning: Mapping[str, Array] = field(default_factory=dict)
    driven_curvature: Array | None = None  #: (K,) 1/m, positive to the right
    v_ego: Array | None = None  #: (K,) m/s
    raw_frames: Array | None = None  #: (K, 2, 384, 512) uint8, I420, what ``img`` was packed from
    recorded: bool = True  #: from driving; on random inputs a sound policy may say anything

    @property
    def count(self) -> int:
        """Sets of inputs."""
        return len(next(iter(self.inputs.values())))

    def row(self, model: Model, k: int) -> dict[str, Array]:
        """Return one set with the shapes and types of the contract."""
        return {
            n: np.asarray(self.inputs[n][k], dtype=i.dtype).reshape(i.shape)
            for n, i in model.inputs.items()
        }


def write_probe(path: str | Path, probe: Probe) -> None:
    """Write a probe as npz."""
    arrays = {f"input/{n}": a for n, a in probe.inputs.items()}
    arrays |= {f"meaning/{n}": a for n, a in probe.meaning.items()}
    arrays["outputs"] = probe.outputs
    arrays["recorded"] = np.array(probe.recorded)
    for name in ("driven_curvature", "v_ego", "raw_frames"):
        value = getattr(probe, name)
        if value is not None:
            arrays[name] = value
    write_arrays(path, arrays, compressed=True)


def read_probe(path: str | Path, model: Model) -> Probe:
    """Read a probe and check it against the inputs of a network.

    Raises:
        InputError: The file is absent or no probe, lacks an input, or an array of it is of another
            kind or shape than the others.
    """
    path = check_file(path, "probe", "give probe= of recorded inputs")
    arrays = read_arrays(path)
    for name, values in arrays.items():
        if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
            raise InputError(
                f"{name} of the probe {str(path)!r} holds values that are no finite numbers "
                f"({values.dtype}); record it again"
            )
    groups: dict[str, dict[str, Array]] = {"input": {}, "meaning": {}}
    for name, values in arrays.items():
        group, _, rest = name.partition("/")
        if rest and group in groups:
            groups[group][rest] = values
    source = f"the probe {str(path)!r}"
    counts = set()
    for name, spec in model.inputs.items():
        if name not in groups["input"]:
            raise InputError(f"{source} has no array 'input/{name}'; record it too")
        values = groups["input"][name]
        if values.ndim < 1 or not len(values) or values[0].size != np.prod(spec.shape):
            raise InputError(
                f"'input/{name}' of {source} has shape {values.shape}; give "
                f"(K, {', '.join(map(str, spec.shape))})"
            )
        counts.add(len(values))
    if len(counts) > 1:
        raise InputError(f"the inputs of {source} have {counts} sets; give as many of each")
    (count,) = counts
    wanted = {"driven_curvature": (count,), "v_ego": (count,), "raw_frames": (count, 2, *I420)}
    for name, shape in wanted.items():
        if name in arrays and arrays[name].shape != shape:
            raise InputError(f"{name} of {source} has shape {arrays[name].shape}; give {shape}")
    outputs = arrays.get("outputs", np.empty((0, model.length), np.float32))
    if outputs.ndim != 2 or (outputs.size and len(outputs) != count):
        raise InputError(f"outputs of {source} have shape {outputs.shape}; give ({count}, N)")
    return Probe(
        groups["input"],
        outputs,
        groups["meaning"],
        driven_curvature=arrays.get("driven_curvature"),
        v_ego=arrays.get("v_ego"),
        raw_frames=arrays.get("raw_frames"),
        recorded=bool(np.all(arrays.get("recorded", True))),
    )


def example_inputs(model: Model, count: int = 0, seed: int = 0, scale: float = 1.0) -> Any:
    """Return plausible random inputs (K, *shape): one-hot traffic, rare desires, normal features.

    Args:
        model: The network.
        count: K; 0 takes 8, or 2 where images make them large.
        seed: Seed of the draw.
        scale: Standard deviation of features and states.
    """
    rng = np.random.default_rng(seed)
    count = count or (2 if any(i.dtype == "uint8" for i in model.inputs.values()) else 8)
    found: dict[str, Array] = {}
    for name, spec in model.inputs.items():
        shape = (count, *spec.shape)
        if spec.dtype == "uint8":
            found[name] = rng.integers(0, 256, shape).astype(np.uint8)
            continue
        if spec.feed == "traffic_convention":
            values = np.eye(2)[rng.integers(0, 2, count)]
        elif spec.feed in ("desire", "desire_now") or name == "state_desire_q":
            values = (rng.random(shape) < 0.02).astype(float)
            values[..., 0] = 0.0
        elif spec.feed == "lateral_control_params":
            values = np.stack([rng.uniform(0, 35, count), rng.uniform(0.1, 0.5, count)], 1)
        elif spec.feed == "action_t":
            values = rng.uniform(0.2, 0.6, shape)
        elif spec.feed == "previous_curvature":
            values = spec.gain * rng.normal(0, 0.01, shape)
        else:
            values = rng.normal(0, scale, shape)
        found[name] = values.reshape(shape).astype(np.float32)
    return found
