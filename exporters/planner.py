"""Planning networks as ONNX files."""

import json
from pathlib import Path

import torch

from steerlab.agents.trc.model import Planner
from steerlab.envs.tracking.problems import dump_problem
from steerlab.errors import InputError
from steerlab.exporters.onnx import export_onnx


def export_planner(model: Planner, path: str | Path) -> float:
    """Write a planner of a linear plant as ONNX, checked against torch.

    Inputs, float32: ``initial_state`` (B, 2), ``target_state`` (B, 2) and ``remaining`` (B,), the
    steps that are left. Output: ``controls`` (B, T, 1), of which a closed loop applies the first.

    Returns:
        The largest difference to torch that was found.

    Raises:
        InputError: The plant is nonlinear: its simulation would unroll into a very large graph.
    """
    if not model.problem.linear:
        raise InputError(
            f"{type(model.problem).__name__} is nonlinear, and its planner simulates it: there is "
            "no ONNX export; use the planner from torch"
        )
    model = model.cpu().eval()
    generator = torch.Generator().manual_seed(0)
    states = 2 * torch.rand(64, 4, generator=generator) - 1
    remaining = torch.randint(1, model.problem.steps + 1, (64,), generator=generator).float()
    return export_onnx(
        model,
        (
            states[:, :2] * model.problem.spread,
            states[:, 2:] * model.problem.target_spread,
            remaining,
        ),
        path,
        ["initial_state", "target_state", "remaining"],
        ["controls"],
        metadata={"problem": dump_problem(model.problem), "model": json.dumps(model.describe())},
        tolerance=1e-3,
    )
