"""Data files, losses, training, and the judge."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from steerlab.agents.classical.tracking import (
    finite_horizon_lqr,
    infinite_horizon_lqr,
    optimal_controls,
    random_controls,
)
from steerlab.agents.trc import (
    MlpPlanner,
    PlanData,
    TinyRecursiveControl,
    TrainConfig,
    TrcConfig,
    load_dataset,
    load_planner,
    train,
)
from steerlab.agents.trc.data import load_plans, make_arrays, save_plans
from steerlab.agents.trc.evaluate import drive, judge, judge_iterates, optimal_cases
from steerlab.agents.trc.train import LOSSES, _examples, make_loss
from steerlab.envs.tracking.double_integrator import DoubleIntegrator
from steerlab.envs.tracking.problems import dump_problem, make_problem, parse_problem
from steerlab.envs.tracking.van_der_pol import VanDerPol
from steerlab.errors import InputError

PROBLEM = DoubleIntegrator()
TINY = TrcConfig(latent_dim=16, hidden_dim=16, num_blocks=1)


@pytest.fixture(scope="module")
def data() -> PlanData:
    return optimal_cases(PROBLEM, 200, 123)


def split(data: PlanData) -> tuple[PlanData, PlanData]:
    return data.take(np.arange(160)), data.take(np.arange(160, 200))


def test_labels_fed_back_have_no_gap(data: PlanData) -> None:
    result = judge(data, data.arrays["control_sequences"])
    for key in ("gap_of_means", "gap_mean", "gap_max", "error_gap", "excess_mean"):
        assert result[key] == pytest.approx(0, abs=1e-12)
    assert result["success"] == result["success_labels"] == 1.0


def test_judge_against_numbers_worked_out_here(data: PlanData) -> None:
    arrays = data.arrays
    controls = finite_horizon_lqr(PROBLEM, arrays["initial_states"], arrays["target_states"])
    costs = PROBLEM.cost(arrays["initial_states"], arrays["target_states"], controls)
    gap = costs / arrays["optimal_costs"] - 1
    result = judge(data, controls)
    assert result["cost"] == pytest.approx(costs.mean())
    assert result["gap_of_means"] == pytest.approx(costs.mean() / arrays["costs"].mean() - 1)
    assert result["gap_mean_large"] == pytest.approx(gap[arrays["optimal_costs"] >= 1].mean())
    assert result["gap_p95"] == pytest.approx(np.percentile(gap, 95))
    free = (np.abs(arrays["control_sequences"]) < PROBLEM.limit - 1e-6).all((1, 2))
    assert result["gap_mean_free"] == pytest.approx(gap[free].mean())
    # Without an active bound this regulator is the optimum.
    assert result["gap_mean_free"] < 1e-3 < result["gap_mean_bound"]


def test_judge_refuses_what_cannot_be_compared(data: PlanData) -> None:
    with pytest.raises(InputError, match="shape"):
        judge(data, np.zeros((200, 14, 1)))
    with pytest.raises(InputError, match="clip"):
        judge(data, np.full((200, 15, 1), 4.5))


def test_iterates(data: PlanData) -> None:
    best = data.arrays["control_sequences"]
    plans = np.stack([0.5 * best, 0.8 * best, best, 0.99 * best])
    result = judge_iterates(data, plans)
    assert result["improved"][:2] == [1.0, 1.0]
    assert result["improved"][2] == 0.0
    assert result["gap_of_means"][2] == pytest.approx(0, abs=1e-12)
    assert result["non_increasing"] < 1
    assert judge_iterates(data, plans[:3])["non_increasing"] == 1.0


def test_driving_the_optimum_and_the_task_agree(data: PlanData) -> None:
    arrays = data.take(np.arange(3)).arrays
    initial, targets = arrays["initial_states"], arrays["target_states"]

    def policy(x: Any, goal: Any, steps: int) -> Any:
        shorter = DoubleIntegrator(steps=steps, horizon=steps * PROBLEM.dt)
        return optimal_controls(shorter, x, goal)

    costs, errors = drive(PROBLEM, policy, initial, targets)
    np.testing.assert_allclose(costs, arrays["optimal_costs"], rtol=1e-9)
    open_loop, _ = drive(PROBLEM, policy, initial, targets, replan=False)
    np.testing.assert_allclose(open_loop, costs, rtol=1e-9)
    noisy, _ = drive(PROBLEM, policy, initial, targets, disturbance=0.3)
    noisy_open, _ = drive(PROBLEM, policy, initial, targets, disturbance=0.3, replan=False)
    assert noisy.mean() < noisy_open.mean()

    env: Any = gym.make("DoubleIntegrator-v0")
    env.reset(options={"initial": initial[0], "target": targets[0]})
    info: dict[str, Any] = {}
    for control in arrays["control_sequences"][0]:
        *_, info = env.step(control)
    assert info["cost"] == pytest.approx(costs[0], rel=1e-6)
    assert info["error"] == pytest.approx(errors[0], rel=1e-5)


def test_file_goes_around(tmp_path: Path, data: PlanData) -> None:
    problem = VanDerPol(steps=4, horizon=0.5)
    initial, targets = problem.sample(np.random.default_rng(0), 6)
    controls = random_controls(problem, initial, targets)
    arrays = make_arrays(problem, initial, targets, controls, np.ones(6))
    save_plans(tmp_path / "plans.npz", problem, arrays)
    again = load_plans(tmp_path / "plans.npz")
    assert again.problem == problem
    for key, values in arrays.items():
        np.testing.assert_array_equal(again.arrays[key], values)
    train_set, valid_set = load_dataset(tmp_path / "plans.npz", valid_fraction=0.5)
    assert (len(train_set), len(valid_set)) == (3, 3)
    both = np.concatenate([s.arrays["initial_states"] for s in (train_set, valid_set)])
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(initial, axis=0))


def test_published_file_is_read(tmp_path: Path) -> None:
    problem = DoubleIntegrator.preset("published")
    initial, targets = problem.sample(np.random.RandomState(42), 20)
    controls = infinite_horizon_lqr(problem, initial, targets)
    path = tmp_path / "lqr_dataset.npz"
    np.savez(path, initial_states=initial, target_states=targets, control_sequences=controls)
    data = load_plans(path)
    assert data.problem == problem
    best = problem.cost(initial, targets, optimal_controls(problem, initial, targets))
    np.testing.assert_allclose(data.arrays["optimal_costs"], best)
    assert judge(data, controls)["error_gap"] == pytest.approx(0)
    assert judge(data, controls)["gap_of_means"] > 0.3


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        load_plans(tmp_path / "none.npz")
    path = tmp_path / "bad.npz"
    path.write_bytes(b"no zip")
    with pytest.raises(InputError, match="no zip archive"):
        load_plans(path)
    np.savez(path, initial_states=np.zeros((2, 2)))
    with pytest.raises(InputError, match="lacks target_states"):
        load_plans(path)
    zeros = {"initial_states": np.zeros((2, 2)), "target_states": np.zeros((3, 2))}
    np.savez(path, **zeros, control_sequences=np.zeros((2, 15, 1)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="shapes"):
        load_plans(path)
    zeros["target_states"] = np.full((2, 2), np.nan)
    np.savez(path, **zeros, control_sequences=np.zeros((2, 15, 1)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="finite"):
        load_plans(path)
    np.savez(path, initial_states=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="holds Python objects"):
        load_plans(path)


def test_problems_as_text() -> None:
    for problem in (DoubleIntegrator.preset("published", steps=4), VanDerPol(mu=2.0)):
        assert parse_problem(dump_problem(problem)) == problem
    with pytest.raises(InputError, match="describes no"):
        parse_problem("{}")
    with pytest.raises(InputError, match="did you mean 'VanDerPol-v0'"):
        make_problem("VanDerPol")


def test_a_plain_network_gets_no_tails_by_default(data: PlanData) -> None:
    """It is not told how many steps are left: tails would be other labels for the same input."""
    rng = torch.Generator()
    values = {}
    torch.manual_seed(0)
    models = (MlpPlanner(data.problem, 8), TinyRecursiveControl(data.problem, TINY))
    for tails in (None, 0.0, 0.3):
        for model in models:
            loss = make_loss(TrainConfig(loss="mse", tails=tails))
            batch = data[torch.arange(20)]
            found = loss(model.train(), batch, rng.manual_seed(0))["loss"]
            values[type(model).__name__, tails] = found.item()
    assert values["MlpPlanner", None] == values["MlpPlanner", 0.0] != values["MlpPlanner", 0.3]
    assert (
        values["TinyRecursiveControl", None]
        == values["TinyRecursiveControl", 0.3]
        != values["TinyRecursiveControl", 0.0]
    )


def test_tails_of_optimal_plans_are_optimal(data: PlanData) -> None:
    """What the loss takes from the middle of plans is what a solver finds from there."""
    batch = data[torch.arange(100)]
    rng = torch.Generator().manual_seed(0)
    initial, label, scale, remaining = _examples(batch, 1.0, rng)
    assert len(set(remaining.tolist())) > 10
    for steps in (1, 4, 9):
        rows = torch.nonzero(remaining == steps)[:, 0].numpy()
        shorter = DoubleIntegrator(steps=steps, horizon=steps * PROBLEM.dt)
        x, goal = initial[rows].double().numpy(), batch["targets"][rows].double().numpy()
        best = optimal_controls(shorter, x, goal)
        np.testing.assert_allclose(label[rows, :steps], best[..., 0], atol=1e-4)
        np.testing.assert_allclose(scale[rows], shorter.cost(x, goal, best), rtol=1e-4)
        assert (label[rows, steps:] == 0).all()
    whole = _examples(batch, 0.0, rng)
    torch.testing.assert_close(whole[1], batch["controls"])
    assert (whole[3] == 15).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["trc", "mlp"])
def test_training_lowers_the_loss(tmp_path: Path, data: PlanData, loss: str, kind: str) -> None:
    torch.manual_seed(0)
    model = TinyRecursiveControl(PROBLEM, TINY) if kind == "trc" else MlpPlanner(PROBLEM, 16)
    train_set, valid_set = split(data)
    arrays = valid_set.arrays
    config = TrainConfig(
        epochs=12, batch_size=16, learning_rate=5e-3, device="cpu", loss=loss, tails=0.0
    )
    measure, rng = make_loss(config), torch.Generator()
    everything = valid_set[torch.arange(40)]
    before = measure(model.eval(), everything, rng)["loss"].item()
    train(model, train_set, valid_set, config, tmp_path)
    assert measure(model, everything, rng)["loss"].item() < 0.7 * before
    again = load_planner(tmp_path / "best.pt")
    np.testing.assert_array_equal(
        again.plan(arrays["initial_states"], arrays["target_states"]),
        model.plan(arrays["initial_states"], arrays["target_states"]),
    )
    assert type(again) is type(model)


def test_cost_loss_is_the_gap(data: PlanData) -> None:
    """In validation: the mean of (J(u) - J) / (J + c) over the last plan."""
    model = MlpPlanner(PROBLEM, 8).eval()
    batch = data[torch.arange(200)]
    value = make_loss(TrainConfig())(model, batch, torch.Generator())["loss"]
    arrays = data.arrays
    plans = model.plan(arrays["initial_states"], arrays["target_states"])
    costs = PROBLEM.cost(arrays["initial_states"], arrays["target_states"], plans)
    best = arrays["optimal_costs"]
    expected = ((costs - best) / (best + best.mean() / 8)).mean()
    assert value.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "huber"}, "unknown loss"),
        ({"tails": 2.0}, "tails"),
        ({"supervision": -1.0}, "supervision"),
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"config": TrainConfig(), "epochs": 3}, "not both"),
    ],
)
def test_bad_options(tmp_path: Path, data: PlanData, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(MlpPlanner(PROBLEM, 4), *split(data), output=tmp_path, **options)
    with pytest.raises(InputError, match=r"trained for limit=3\.0 and not 4\.0"):
        train(MlpPlanner(DoubleIntegrator(limit=3.0), 4), *split(data), output=tmp_path)


def test_bad_checkpoint(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="not a steerlab checkpoint"):
        load_planner(tmp_path / "x.pt")


@pytest.mark.exhaustive
def test_small_network_comes_near_the_optimum(tmp_path: Path) -> None:
    torch.manual_seed(0)
    train_set, valid_set = split(optimal_cases(PROBLEM, 200, 1))
    train_set = optimal_cases(PROBLEM, 4000, 42)
    model = TinyRecursiveControl.of_size("small")
    train(model, train_set, valid_set, output=tmp_path, epochs=20, device="cpu")
    test = optimal_cases(PROBLEM, 500, 123)
    arrays = test.arrays
    plans = model.plan(arrays["initial_states"], arrays["target_states"], all_iterates=True)
    assert judge(test, plans[-1])["gap_of_means"] < 0.005
    assert judge_iterates(test, plans)["non_increasing"] == 1.0
