"""Export pi0 and pi0-FAST to ONNX files that need no steerlab: state and noise in, a chunk out.

Each model of an ensemble becomes NAME.onnx in output=. The file includes the Euler steps (pi0) or the
decoder (pi0-FAST), and the consensus. It is compared with torch before it is saved. Inputs: state (B, 4)
in m, rad, m/s, rad/s, and noise, which is normal (B, samples, 50) for pi0 and uniform in [0, 1)
(B, sequences, longest) for pi0-FAST. Output: chunk (B, 50), actions of 0.04 s each.

Example:
  steerlab export-pendulum pi0=runs/pi0 output=runs/onnx
"""

from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from steerlab.agents.inverted_pendulum.sampling import Sampling, members_of, randomness, sampler_of
from steerlab.errors import InputError
from steerlab.exporters.chunk_policy import export_sampler
from steerlab.study import study


def run(config: Sampling, output: Path) -> dict[str, float]:
    """Export every member; return its largest difference to torch by the name of its file."""
    ensembles = members_of(config, torch.device("cpu"))
    if not ensembles:
        raise InputError("nothing to export; give pi0= or pi0_fast=, the output= of a training")
    table = Table("file", "noise", "KiB", "torch - onnxruntime", title="exported")
    members = {name: model for ensemble in ensembles.values() for name, model in ensemble.items()}
    found = {}
    for name, model in tqdm(members.items(), unit="model", desc="exporting"):
        policy, path = sampler_of(model, config), output / f"{name}.onnx"
        rng = np.random.default_rng(config.seed)
        shape = tuple(randomness(policy, 1, rng).shape[1:])
        found[path.name] = export_sampler(policy, path, rng)
        size = path.stat().st_size // 1024
        table.add_row(
            path.name, f"(B, {shape[0]}, {shape[1]})", f"{size}", f"{found[path.name]:.1e}"
        )
    Console().print(table, f"in {output}")
    return found


main = study(Sampling, run)
