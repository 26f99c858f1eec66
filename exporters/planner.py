"""Planning networks as ONNX files."""

import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from steerlab.agents.trc.model import MlpPlanner, Planner
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.envs.tracking.problems import dump_problem
from steerlab.errors import InputError
from steerlab.exporters.onnx import export_onnx
from steerlab.latency import latency
from steerlab.openpilot.engines import session

#: Sizes at which latencies are measured.
BATCHES = (1, 1024)


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
