"""Samplers of action chunks as ONNX files."""

from pathlib import Path

import numpy as np
import torch

from steerlab.agents.inverted_pendulum.sampling import randomness
from steerlab.agents.pi0.model import Pi0Sampler
from steerlab.agents.pi0_fast.model import ChunkDecoder
from steerlab.exporters.onnx import export_onnx


def export_sampler(
    policy: Pi0Sampler | ChunkDecoder, path: Path, rng: np.random.Generator
) -> float:
    """Write ``policy`` to an ONNX file, its loop and consensus included.

    Inputs are state (B, 4) and noise (B, samples, H), or for pi0-FAST uniform numbers
    (B, sequences, longest); the output is chunk (B, H).

    Returns:
        The largest difference between torch and onnxruntime on states near balance.
    """
    states = torch.as_tensor(rng.uniform(-0.2, 0.2, (2, 4)), dtype=torch.float32)
    example = (states, randomness(policy, 2, rng))
    # From version 20 on GELU is one operation.
    return export_onnx(policy, example, path, ["state", "noise"], ["chunk"], opset=20)
