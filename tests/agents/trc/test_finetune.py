"""Fine-tuning for a reward: known answers, what PPO sees, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from steerlab.agents.trc import TinyRecursiveControl, TrcConfig, load_planner
from steerlab.agents.trc.finetune import (
    GradientConfig,
    PlanEnv,
    PlanPPOConfig,
    _PlanMean,
    cases_from,
    tune_by_gradient,
    tune_by_ppo,
)
from steerlab.agents.trc.reward import PlanReward, task_reward
from steerlab.envs.tracking.double_integrator import DoubleIntegrator
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.envs.tracking.van_der_pol import VanDerPol
from steerlab.errors import InputError

PROBLEM = DoubleIntegrator(steps=3, horizon=1.0)


def planner(problem: TrackingProblem = PROBLEM) -> TinyRecursiveControl:
    torch.manual_seed(0)
    # With safe steps no plan could cost more than the one before, whatever the reward wants.
    return TinyRecursiveControl(problem, TrcConfig(8, 8, 1, 1, 1, safe_steps=False)).eval()


def lazy(problem: TrackingProblem, states: Tensor, controls: Tensor, targets: Tensor) -> Tensor:
    """Pays for doing nothing, which no planner of the task does."""
    return -controls.square().sum(dim=(1, 2))


@pytest.mark.parametrize("problem", [PROBLEM, VanDerPol(steps=4, horizon=0.4)])
def test_the_tasks_own_reward_is_its_return(problem: TrackingProblem) -> None:
    model = planner(problem)
    initial, targets = cases_from(problem, 5, 1, "cpu")
    found = PlanReward(model, task_reward).of_planner(initial, targets)
    plans = model.plan(initial, targets)
    expected = -problem.cost(initial.double().numpy(), targets.double().numpy(), plans)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_gradient_learns_what_the_reward_wants(tmp_path: Path) -> None:
    model = planner()
    initial, targets = cases_from(PROBLEM, 100, 7, "cpu")
    before = np.square(model.plan(initial, targets)).sum(axis=(1, 2)).mean()
    config = GradientConfig(epochs=4, batch_size=32, learning_rate=3e-3, device="cpu")
    tune_by_gradient(model, lazy, config, tmp_path, cases=200)
    after = np.square(model.plan(initial, targets)).sum(axis=(1, 2)).mean()
    assert after < 0.5 * before
    saved = load_planner(tmp_path / "best.pt")
    np.testing.assert_array_equal(saved.plan(initial, targets), model.plan(initial, targets))


def test_ppo_learns_from_numbers_alone(tmp_path: Path) -> None:
    def blind(
        problem: TrackingProblem, states: Tensor, controls: Tensor, targets: Tensor
    ) -> Tensor:
        return torch.tensor([-float((u**2).sum()) for u in controls.numpy()])

    model = planner()
    initial, targets = cases_from(PROBLEM, 100, 7, "cpu")
    before = np.square(model.plan(initial, targets)).sum(axis=(1, 2)).mean()
    config = PlanPPOConfig(
        total_plans=4096, num_envs=128, rounds=2, batch_size=64, learning_rate=3e-3, exploration=0.1
    )
    tune_by_ppo(model, blind, config, tmp_path, device="cpu")
    after = np.square(model.plan(initial, targets)).sum(axis=(1, 2)).mean()
    assert after < 0.9 * before
    saved = load_planner(tmp_path / "best.pt")
    np.testing.assert_array_equal(saved.plan(initial, targets), model.plan(initial, targets))


def test_ppo_begins_with_the_planner_itself() -> None:
    """The mean action is the plan, with the return of the plan of the same network."""
    model = planner()
    env = PlanEnv(PlanReward(model, task_reward), 6)
    env.seed(3)
    seen = env.reset()
    again = PlanEnv(PlanReward(model, task_reward), 6)
    again.seed(3)
    np.testing.assert_array_equal(seen, again.reset())
    assert (np.abs(seen[:, :4]) <= 2).all()
    assert (seen[:, 4] == 3).all()
    with torch.no_grad():
        mean = _PlanMean(model)(torch.tensor(seen)).numpy()
    _, gained, done, _ = env.step(mean)
    np.testing.assert_allclose(gained, 0, atol=1e-4)
    assert done.all()
    move = np.array([0.3, 0.0, 0.0])
    paid = again.step(mean + move.astype(np.float32))[1]
    initial, targets = seen[:, :2].astype(float), seen[:, 2:4].astype(float)
    plans = model.plan(initial, targets)
    moved = np.clip(plans[..., 0] + 4.0 * move @ model.plant.whitening.numpy(), -4.0, 4.0)[
        ..., None
    ]
    worth = -PROBLEM.cost(initial, targets, plans)
    gain = -PROBLEM.cost(initial, targets, moved) - worth
    np.testing.assert_allclose(paid, gain / again.scale, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda p, x, u, g: x.sum(), r"returns \(\); it must return a tensor \(40,\)"),
        (lambda p, x, u, g: [0.0] * len(x), "returns list"),
        (lambda p, x, u, g: x[:, 0, 0] / 0, "not finite"),
        (lambda p, x, u: x, "my reward fails on states"),
        (lambda p, x, u, g: u.detach()[:, 0, 0], "no gradient comes back through my reward"),
    ],
)
def test_rewards_that_are_none(reward: object, message: str, tmp_path: Path) -> None:
    config = GradientConfig(device="cpu")
    with pytest.raises(InputError, match=message):
        tune_by_gradient(planner(), reward, config, tmp_path, cases=40, name="my reward")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_bad_options(tmp_path: Path) -> None:
    for change, message in (
        ({"rounds": 0}, "rounds=0"),
        ({"exploration": 0.0}, "exploration"),
        ({"total_plans": 100}, "at least one iteration"),
    ):
        with pytest.raises(InputError, match=message):
            tune_by_ppo(planner(), task_reward, PlanPPOConfig(**change), tmp_path)
