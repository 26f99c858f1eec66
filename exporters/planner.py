"""Planning networks as ONNX files."""

import json
from pathlib import Path

import torch

from steerlab.agents.trc.model import MlpPlanner, Planner
from steerlab.envs.tracking.problems import dump_problem
from steerlab.errors import InputError
from steerlab.exporters.onnx import export_onnx


def export_planner(
    model: Planner, path: str | Path, *, rows: int | None = None, opset: int = 18, source: str = ""
) -> float:
    """Write a planner as ONNX, checked against torch.

    Inputs, float32: ``initial_state`` (B, 2), ``target_state`` (B, 2) and ``remaining`` (B,), the
    steps that are left. Output: ``controls`` (B, T, 1), of which a closed loop applies the first.
    The file's ``metadata_props`` hold ``problem`` and ``model`` as JSON, and ``source``.

    Args:
        model: The planner. One that simulates its plant needs a linear plant.
        path: The file.
        rows: Plans a call, B; None leaves B free.
        opset: Version of the operator set.
        source: What the metadata say of where the weights are from.

    Returns:
        The largest difference to torch that was found.

    Raises:
        InputError: The planner simulates a nonlinear plant, which would unroll into a very large
            graph.
    """
    check_exportable(model)
    model = model.cpu().eval()
    count = rows or 64
    generator = torch.Generator().manual_seed(0)
    states = 2 * torch.rand(count, 4, generator=generator) - 1
    remaining = torch.randint(1, model.problem.steps + 1, (count,), generator=generator).float()
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
        dynamic_batch=rows is None,
        opset=opset,
        metadata={
            "problem": dump_problem(model.problem),
            "model": json.dumps(model.describe()),
            "source": source,
        },
        tolerance=1e-3,
    )


def check_exportable(model: Planner) -> None:
    """Refuse a planner that simulates a nonlinear plant; a plain network does not.

    Raises:
        InputError: It is one.
    """
    if not model.problem.linear and not isinstance(model, MlpPlanner):
        raise InputError(
            f"{type(model.problem).__name__} is nonlinear, and its planner simulates it: there is "
            "no ONNX export; use the planner from torch"
        )
