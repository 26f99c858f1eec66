"""Planning networks as ONNX files."""

import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from steerlab.agents.trc.model import Planner
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.envs.tracking.problems import dump_problem
from steerlab.errors import InputError
from steerlab.exporters.onnx import export_onnx
from steerlab.latency import latency
from steerlab.openpilot.engines import session

#: Sizes at which latencies are measured.
BATCHES = (1, 1024)


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


def planner_inputs(problem: TrackingProblem, batch: int) -> tuple[torch.Tensor, ...]:
    """Return the inputs of a planner: states and targets (batch, 2) and steps left (batch,)."""
    initial, targets = problem.sample(np.random.RandomState(0), batch)
    left = torch.full((batch,), float(problem.steps))
    return torch.tensor(initial).float(), torch.tensor(targets).float(), left


def planner_latencies(model: Planner, seconds: float) -> dict[str, dict[str, float]]:
    """Return the latencies of a planner in onnxruntime, one thread, for :data:`BATCHES`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "planner.onnx")
        export_planner(model, path)
        runtime = session(path, threads=1)
    names = ("initial_state", "target_state", "remaining")
    found = {}
    for batch in BATCHES:
        inputs = planner_inputs(model.problem, batch)
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        found[f"onnxruntime_{batch}"] = latency(partial(runtime.run, None, feed), seconds)
    return found
