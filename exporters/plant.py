"""A learned plant as an ONNX file with comma's signature."""

import os
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from steerlab.errors import InputError
from steerlab.exporters.onnx import export_onnx
from steerlab.files import atomic_path, writable_folder
from steerlab.readers.graphs import read_graph, write_graph
from steerlab.surrogates.plants.architectures import FORM, keep_weights
from steerlab.surrogates.plants.base import CONTEXT
from steerlab.surrogates.plants.divergence import divergence
from steerlab.surrogates.plants.onnx import OnnxPlant
from steerlab.surrogates.plants.shaped import ModelPlant, SurrogateModel

OPSET = 18  # the version that torch's exporter supports best


class Described(Protocol):
    """What an exported plant says of itself."""

    @property
    def architecture(self) -> str:
        """Kind of network."""

    @property
    def size(self) -> str:
        """Its size."""

    @property
    def sources(self) -> list[str]:
        """Where its data came from."""


def export_plant(model: SurrogateModel, path: Path, about: Described, opset: int) -> None:
    """Write the ONNX file and prove that onnxruntime predicts what torch does.

    Args:
        model: The plant, in evaluation mode.
        path: The file.
        about: What its metadata name: architecture, size and sources of the data.
        opset: Version of the ONNX operator set.

    Raises:
        InputError: The operator set does not do, or predictions differ by more than 1e-4 nats.
    """
    rng = np.random.default_rng(0)
    states = rng.normal(0, 0.5, (16, CONTEXT, 4)).astype(np.float32)
    states[..., 2] = rng.uniform(0, 35, (16, 1))
    tokens = rng.integers(400, 620, (16, 1)) + rng.integers(-4, 5, (16, CONTEXT))
    metadata = {
        "steerlab.architecture": about.architecture,
        "steerlab.size": about.size,
        "steerlab.form": FORM,
        "steerlab.sources": ",".join(about.sources),
    }
    with atomic_path(path) as temporary:
        try:
            # Far from the mean, logits are large and their rounding means nothing, so the exporter's
            # own check of absolute differences is wide here; predictions are compared instead.
            export_onnx(
                model,
                [torch.from_numpy(states), torch.from_numpy(tokens)],
                temporary,
                ["states", "tokens"],
                ["logits"],
                opset=opset,
                metadata=metadata,
                tolerance=1.0,
            )
            proto = read_graph(temporary, runs=False)
        except InputError:
            raise
        except Exception as error:  # of torch, onnx and onnxruntime, which share no base class
            reason = str(error).strip().partition("\n")[0][:200]
            raise InputError(
                f"onnx_opset={opset} cannot be written ({type(error).__name__}: {reason}); "
                f"use {OPSET}, which comma's scripts run"
            ) from error
        written = next(entry.version for entry in proto.opset_import if not entry.domain)
        if written != opset:
            raise InputError(f"onnx_opset={opset} cannot be written, only {written}; use {OPSET}")
        keep_weights(proto, model)
        write_graph(temporary, proto)
        exact = ModelPlant(model).logits(states, tokens)
        worst = float(divergence(exact, OnnxPlant(temporary).logits(states, tokens), 1.0).max())
        if not worst < 1e-4:
            raise InputError(
                f"{str(path)!r}: predictions of onnxruntime differ by {worst:.2g} nats"
            )


def onnx_file(onnx_path: str | None, output: Path) -> Path:
    """Return where the plant goes: a file, or ``plant.onnx`` in a folder.

    Raises:
        InputError: It cannot be written there, or the name is not that of an ONNX file.
    """
    path = Path(onnx_path).expanduser() if onnx_path else output
    if path.is_dir() or path == output or str(onnx_path).endswith(("/", os.sep)):
        path /= "plant.onnx"
    if path.suffix != ".onnx":
        raise InputError(
            f"onnx_path={onnx_path!r} names no ONNX file; end it in .onnx, or give a folder"
        )
    writable_folder(path.parent)
    return path
