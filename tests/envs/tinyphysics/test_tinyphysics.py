"""TinyPhysics-v0 against the official costs, and against itself."""

import csv
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from steerlab.agents.classical.comma import controller_factory
from steerlab.agents.classical.pid import PID, Zero
from steerlab.envs.sb3 import make_sb3_vec
from steerlab.envs.tinyphysics.dynamics import Simulator
from steerlab.envs.tinyphysics.env import OBSERVATION
from steerlab.envs.tinyphysics.rollout import Evaluation, evaluate
from steerlab.errors import InputError
from steerlab.surrogates.plants.analytic import AnalyticPlant
from steerlab.surrogates.segments.data import Segments, load_segments, write_segment
from steerlab.surrogates.segments.synthetic import synthetic_segment, synthetic_segments

COSTS = ("lataccel_cost", "jerk_cost", "total_cost")


@pytest.fixture(scope="module")
def expected(shared: Path) -> dict[tuple[str, str], dict[str, float]]:
    with (shared / "tinyphysics/expected_costs.csv").open() as file:
        return {
            (row["route"], row["controller"]): {k: float(row[k]) for k in COSTS}
            for row in csv.DictReader(file)
        }


@pytest.fixture(scope="module")
def routes(shared: Path) -> Segments:
    return load_segments(shared / "tinyphysics/segments.zip", 100)


@pytest.fixture(scope="module")
def plant(shared: Path) -> Path:
    return shared / "tinyphysics/tinyphysics.onnx"


def flips(result: Evaluation, expected: Any, controller: str) -> list[str]:
    """Return the routes whose costs are not equal to the last digit."""
    return [
        name
        for i, name in enumerate(result.names)
        if any(getattr(result.costs, k)[i] != expected[name, controller][k] for k in COSTS)
    ]


@pytest.mark.parametrize("controller", ["pid", "zero"])
def test_official_costs_to_the_last_digit(
    routes: Segments, plant: Path, expected: Any, controller: str
) -> None:
    result = evaluate(controller_factory(controller), routes[:6], plant, batch_size=6)
    assert flips(result, expected, controller) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "batch_size", "routes_used"),
    [(1, 1, 10), (1, 16, 32), pytest.param(2, 64, 100, marks=pytest.mark.exhaustive)],
)
@pytest.mark.parametrize("controller", ["pid", "zero"])
def test_costs_do_not_depend_on_processes_or_batch(
    routes: Segments,
    plant: Path,
    expected: Any,
    controller: str,
    processes: int,
    batch_size: int,
    routes_used: int,
) -> None:
    result = evaluate(
        controller_factory(controller),
        routes[:routes_used],
        plant,
        processes=processes,
        batch_size=batch_size,
    )
    assert flips(result, expected, controller) == []


def test_environment_returns_minus_the_official_cost(
    routes: Segments, plant: Path, expected: Any
) -> None:
    env = gym.make("TinyPhysics-v0", plant=plant, segments=routes)
    _observation, info = env.reset(seed=0, options={"segment": "00042"})
    assert info["segment"] == "00042"
    total, steps, over = 0.0, 0, False
    while not over:
        _, reward, terminated, truncated, info = env.step(np.zeros(1, np.float32))
        total, steps, over = total + float(reward), steps + 1, terminated or truncated
    wanted = expected["00042", "zero"]
    assert steps == 400
    assert truncated
    assert not terminated
    assert total == pytest.approx(-wanted["total_cost"], rel=1e-9)
    assert env.unwrapped.official_costs() == wanted  # type: ignore[attr-defined]
    for key in COSTS:
        assert info[key] == pytest.approx(wanted[key], rel=1e-9)


def test_rows_of_the_exact_graph_equal_single_environments(routes: Segments, plant: Path) -> None:
    native = gym.make_vec("TinyPhysics-v0", num_envs=3, plant=plant, segments=routes)
    single = gym.make_vec(
        "TinyPhysics-v0", num_envs=3, vectorization_mode="sync", plant=plant, segments=routes
    )
    np.testing.assert_array_equal(native.reset(seed=2)[0], single.reset(seed=2)[0])
    rng = np.random.default_rng(0)
    for _ in range(25):
        actions = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        for a, b in zip(native.step(actions)[:4], single.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(a, b)


def test_return_through_stable_baselines() -> None:
    venv = make_sb3_vec("TinyPhysics-v0", 3, seed=1, seeds="random")
    venv.reset()
    actions = np.zeros((3, 1), np.float32)
    for _ in range(400):
        _, _, dones, infos = venv.step(actions)
    assert dones.all()
    for info in infos:
        assert info["episode"]["r"] == pytest.approx(-info["total_cost"], rel=1e-5)
        assert info["TimeLimit.truncated"]


class Recorder:
    """Keeps what it is shown; steers by a fixed sequence."""

    shares_noise = False

    def reset(self, rows: Any) -> None:
        self.seen: list[Any] = []

    def update(self, target: Any, current: Any, state: Any, plan: Any) -> Any:
        self.seen.append((target.copy(), current.copy(), state, plan))
        return np.full(len(target), 0.1 * np.sin(len(self.seen) / 5))


def test_observation_is_what_a_controller_is_shown() -> None:
    segments = synthetic_segments(2, seed=3)
    recorder = Recorder()
    result = evaluate(lambda: recorder, segments, AnalyticPlant(), tail=False)
    assert len(recorder.seen) == 480
    env = gym.make_vec("TinyPhysics-v0", num_envs=2, plant=AnalyticPlant(), segments=segments)
    observations, _ = env.reset(options={"segment": ["00000", "00001"]})
    for step in range(400):
        target, current, state, plan = recorder.seen[80 + step]
        parts = OBSERVATION.split(observations)
        for name, value in (
            ("target", target),
            ("lataccel", current),
            *state._asdict().items(),
        ):
            np.testing.assert_array_equal(parts[name][:, 0], value.astype(np.float32))
        for name, value in plan._asdict().items():
            np.testing.assert_array_equal(parts[f"plan_{name}"], value.astype(np.float32))
        time = 100 + step
        np.testing.assert_array_equal(
            parts["past_steer"], result.steer[:, time - 20 : time].astype(np.float32)
        )
        np.testing.assert_array_equal(
            parts["past_lataccel"], result.lataccel[:, time - 20 : time].astype(np.float32)
        )
        action = np.full((2, 1), 0.1 * np.sin((81 + step) / 5))
        observations, *_ = env.step(action)
    batch: Any = env.unwrapped
    np.testing.assert_array_equal(batch.simulator.lataccel, result.lataccel)


def test_controller_sees_the_official_alignment() -> None:
    segments = synthetic_segments(1, seed=5)
    recorder = Recorder()
    evaluate(lambda: recorder, segments, AnalyticPlant())
    assert len(recorder.seen) == 580  # to the end of the file
    for place, time in ((0, 20), (79, 99), (80, 100), (479, 499)):
        target, current, state, plan = recorder.seen[place]
        assert target[0] == segments.target[0, time]
        assert state.v_ego[0] == segments.v_ego[0, time]
        assert plan.lataccel.shape == (1, 49)
        assert plan.lataccel[0, 0] == segments.target[0, time + 1]
        assert plan.a_ego[0, -1] == segments.a_ego[0, time + 49]
        if time <= 100:
            assert current[0] == segments.target[0, time - 1]


def test_seeds_of_the_noise() -> None:
    segments = synthetic_segments(3)

    def run(seeds: str) -> Any:
        return evaluate(PID, segments, AnalyticPlant(), seeds=seeds).lataccel

    official = run("official")
    np.testing.assert_array_equal(official, run("official"))
    assert (official != run("honest")).any(axis=1).all()
    env = gym.make("TinyPhysics-v0", seeds="random")
    paths = []
    for _ in range(2):
        env.reset(options={"segment": "00000"})
        paths.append([env.step(np.zeros(1, np.float32))[0][1] for _ in range(20)])
    assert paths[0] != paths[1]


def test_clipping_of_actions_and_jumps() -> None:
    segments = synthetic_segments(1)
    simulator = Simulator(AnalyticPlant(), segments, 1)
    simulator.reset(slice(None), np.array([0]), [0])
    for _ in range(100):
        simulator.advance(np.array([50.0]))
    assert (simulator.steer[0, 100:200] == 2.0).all()
    assert np.abs(np.diff(simulator.lataccel[0, 99:200])).max() <= 0.5
    with pytest.raises(InputError, match="segment 00000 at step 200 is not finite"):
        simulator.advance(np.array([np.nan]))


def test_embedded_default_needs_nothing() -> None:
    env = gym.make("TinyPhysics-v0")
    _, info = env.reset(seed=0, options={"segment": "3"})
    assert info["segment"] == "00003"
    with pytest.raises(InputError, match="unknown segment '77777'"):
        env.reset(options={"segment": "77777"})


# --- controller files ---------------------------------------------------------------------------

PID_FILE = """
from . import BaseController
import numpy as np

class Controller(BaseController):
    def __init__(self):
        self.p, self.i, self.d = 0.195, 0.100, -0.053
        self.error_integral = 0
        self.prev_error = 0

    def update(self, target_lataccel, current_lataccel, state, future_plan):
        error = target_lataccel - current_lataccel
        self.error_integral += error
        error_diff = error - self.prev_error
        self.prev_error = error
        return self.p * error + self.i * self.error_integral + self.d * error_diff
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "controllers"
    folder.mkdir()
    (folder / "mine.py").write_text(PID_FILE)
    return folder


def test_a_controller_file_equals_the_built_in(repository: Path) -> None:
    segments = synthetic_segments(3)
    ours = evaluate(PID, segments, AnalyticPlant())
    theirs = evaluate(controller_factory(str(repository / "mine.py")), segments, AnalyticPlant())
    np.testing.assert_array_equal(ours.lataccel, theirs.lataccel)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("class Controller:\n    def update(self, *a, **k):\n        raise KeyError('x')", "line 3.*KeyError"),
        ("class Controller:\n    def update(self, *a, **k):\n        return float('nan')", "returned nan"),
        ("class Controller:\n    def __init__(self):\n        1 / 0", r"__init__\(\) failed"),
        ("class Other: pass", "no class or function named Controller"),
        ("import not_there_at_all", "cannot be loaded.*not_there_at_all"),
        ("def broken(", "cannot be loaded.*SyntaxError"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("processes", [1, 2])
def test_bad_controllers(tmp_path: Path, code: str, message: str, processes: int) -> None:
    if processes == 2 and "raise" not in code:
        pytest.skip("one case shows that errors cross processes")
    path = tmp_path / "bad.py"
    path.write_text(code)
    segments = synthetic_segments(2)
    with pytest.raises(InputError, match=message):
        evaluate(
            controller_factory(str(path)), segments, "analytic", processes=processes, batch_size=1
        )


def test_missing_controller() -> None:
    with pytest.raises(InputError, match="'pdi' is neither pid nor zero nor a file"):
        controller_factory("pdi")


def test_zero_and_short_segments(tmp_path: Path) -> None:
    write_segment(tmp_path / "00000.csv", synthetic_segment(np.random.default_rng(0), 549))
    segments = load_segments(tmp_path)
    result = evaluate(Zero, segments, AnalyticPlant())
    assert (result.steer[0, 100:] == 0).all()
    env = gym.make("TinyPhysics-v0", segments=segments)
    env.reset(seed=0)
    for _ in range(400):
        observation, *_ = env.step(np.zeros(1, np.float32))
    assert np.isfinite(observation).all()
