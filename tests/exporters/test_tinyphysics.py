"""The exported files: they steer as the policy does, and know nothing but update()'s arguments."""

import ast
import json
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from steerlab.agents.classical.comma import controller_factory
from steerlab.agents.tinyphysics import SHIPPED
from steerlab.agents.tinyphysics.controller import PolicyController
from steerlab.agents.tinyphysics.model import PolicyShape, PreviewPolicy
from steerlab.agents.tinyphysics.rollout import Roads
from steerlab.envs.tinyphysics import dynamics
from steerlab.envs.tinyphysics.rollout import evaluate
from steerlab.exporters.tinyphysics import export_policy, write_controller
from steerlab.surrogates.segments.data import load_segments, write_segment
from steerlab.surrogates.segments.synthetic import default_segments, synthetic_segment

FuturePlan: Any = dynamics.FuturePlan  # comma's scripts give numbers and lists
State: Any = dynamics.State
LOOP = Path(__file__).parents[1] / "agents/classical/official_loop.py"
SHAPES = [
    PolicyShape(hidden=16),
    PolicyShape(hidden=7, preview=9, history=3),
    PolicyShape(hidden=5, preview=50, history=2, delta=False),
]


def some_policy(shape: PolicyShape) -> PreviewPolicy:
    torch.manual_seed(3)
    policy = PreviewPolicy(shape)
    policy.fit_normaliser(Roads.of(default_segments()).typical(0))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return policy.requires_grad_(False)


def load(path: Path) -> Any:
    """Load a controller file as comma's scripts would: nothing of steerlab is in sight."""
    return runpy.run_path(str(path))["Controller"]()


@pytest.mark.parametrize("shape", SHAPES)
def test_file_steers_as_the_policy(shape: PolicyShape, tmp_path: Path) -> None:
    policy = some_policy(shape)
    write_controller(policy, tmp_path / "ours.py", "by a test")
    segments = default_segments()[:2]
    batched = PolicyController(policy)
    batched.reset([None, None])
    files = [load(tmp_path / "ours.py") for _ in range(2)]
    road = np.stack([segments.target, segments.roll_lataccel, segments.v_ego, segments.a_ego])
    rng = np.random.default_rng(0)
    moved = 0.0
    for t in range(20, 500):
        current = segments.target[:, t - 1] + 0.1 * rng.standard_normal(2)
        plan = FuturePlan(*road[:, :, t + 1 : t + 50])
        state = State(*road[1:, :, t])
        wanted = batched.update(road[0, :, t], current, state, plan)
        for row, file in enumerate(files):
            found = file.update(
                road[0, row, t],
                current[row],
                State(*road[1:, row, t]),
                future_plan=FuturePlan(*road[:, row, t + 1 : t + 50].tolist()),
            )
            assert type(found) is float
            assert found == pytest.approx(wanted[row], abs=3e-4)
            moved = max(moved, abs(found))
    assert moved > 0.05


def test_short_plan_repeats_its_last_row(tmp_path: Path) -> None:
    write_controller(some_policy(SHAPES[0]), tmp_path / "ours.py")
    answers = []
    for length in (30, 49):
        file = load(tmp_path / "ours.py")
        plan = [[0.01 * min(k, 29) for k in range(length)] for _ in range(4)]
        state = State(0.1, 0.0, 0.2)
        answers.append(
            [file.update(0.3, 0.2, state, future_plan=FuturePlan(*plan)) for _ in range(90)]
        )
    assert answers[0] == answers[1]
    nothing = FuturePlan([], [], [], [])
    assert np.isfinite(load(tmp_path / "ours.py").update(0.1, 0.1, state, future_plan=nothing))


def test_costs_in_the_simulator_are_the_policys(tmp_path: Path) -> None:
    policy = some_policy(SHAPES[0])
    write_controller(policy, tmp_path / "ours.py")
    segments = default_segments()[:2]
    ours = evaluate(lambda: PolicyController(policy), segments, "analytic")
    file = evaluate(controller_factory(str(tmp_path / "ours.py")), segments, "analytic")
    np.testing.assert_allclose(file.steer, ours.steer, atol=1e-3)
    np.testing.assert_allclose(file.costs.total_cost, ours.costs.total_cost, rtol=1e-3)


def official_costs(folder: Path, controller: Path, plant: str) -> list[float]:
    """Return what comma's rollout, written out, finds for a controller in a clone of its repository."""
    checkout = folder / "clone"
    (checkout / "controllers").mkdir(parents=True)
    (checkout / "controllers/__init__.py").touch()
    (checkout / "controllers/ours.py").write_text(controller.read_text())
    found = subprocess.run(
        [sys.executable, LOOP, checkout, "ours", folder / "routes", plant],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(found.stdout)


def test_costs_in_commas_repository_are_ours_to_the_last_digit(tmp_path: Path) -> None:
    write_controller(some_policy(SHAPES[0]), tmp_path / "ours.py")
    (tmp_path / "routes").mkdir()
    table = synthetic_segment(np.random.default_rng(0))
    write_segment(tmp_path / "routes/00000.csv", table)
    segments = load_segments(tmp_path / "routes")
    found = evaluate(controller_factory(str(tmp_path / "ours.py")), segments, "analytic")
    theirs = official_costs(tmp_path, tmp_path / "ours.py", "analytic")
    assert theirs == found.costs.total_cost.tolist()


@pytest.mark.slow
def test_costs_with_commas_model_are_ours_to_the_last_digit(shared: Path, tmp_path: Path) -> None:
    plant = shared / "tinyphysics/tinyphysics.onnx"
    (tmp_path / "routes").mkdir()
    with zipfile.ZipFile(shared / "tinyphysics/segments.zip") as archive:
        archive.extract("00000.csv", tmp_path / "routes")
    found = evaluate(controller_factory("steerlab"), load_segments(tmp_path / "routes"), plant)
    theirs = official_costs(tmp_path, SHIPPED, str(plant))
    assert theirs == found.costs.total_cost.tolist()


@pytest.mark.slow
def test_onnx_is_the_policy(tmp_path: Path) -> None:
    policy = some_policy(SHAPES[0])
    export_policy(policy, tmp_path / "policy.onnx")
    session = ort.InferenceSession(str(tmp_path / "policy.onnx"))
    seen = Roads.of(default_segments()).typical(2)
    feeds = {name: part.numpy() for name, part in seen._asdict().items()}
    (found,) = session.run(None, feeds)
    np.testing.assert_allclose(found, policy(seen).numpy(), atol=1e-5)


def test_file_needs_numpy_alone_and_draws_nothing(tmp_path: Path) -> None:
    write_controller(some_policy(SHAPES[1]), tmp_path / "ours.py")
    tree = ast.parse((tmp_path / "ours.py").read_text())
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert {alias.name for node in imports for alias in node.names} == {"base64", "numpy", "Any"}
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}  # fmt: skip
    assert not used & {"random", "load", "fromfile", "loadtxt", "__dict__", "_getframe"}
    assert called <= {"zip", "float", "int", "len", "min", "max", "silu", "slice"}


def test_what_update_is_not_given_changes_nothing(tmp_path: Path) -> None:
    """Routes that differ in name, noise, logged steer and the road beyond the plan."""
    write_controller(some_policy(SHAPES[0]), tmp_path / "ours.py")
    segments = default_segments()[:1]
    answers = []
    for seed, logged in ((0, 0.0), (1, 1.5)):
        np.random.seed(seed)  # noqa: NPY002
        file = load(tmp_path / "ours.py")
        road = np.stack([segments.target, segments.roll_lataccel, segments.v_ego, segments.a_ego])
        road[:, :, 250:] += logged
        steers = []
        for t in range(20, 200):  # the plan ends at row 249
            plan = FuturePlan(*road[:, 0, t + 1 : t + 50].tolist())
            state = State(*road[1:, 0, t])
            steers.append(file.update(road[0, 0, t], road[0, 0, t - 1], state, future_plan=plan))
        answers.append(steers)
    assert answers[0] == answers[1]
