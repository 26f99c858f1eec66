"""Planners on models with known answers."""

import numpy as np
import pytest
import torch

from steerlab.agents.tinyphysics.model import Observation
from steerlab.agents.tinyphysics.planners import (
    FeedforwardPID,
    GradientPlans,
    LinearModel,
    PreviewRegulator,
    SampledPlans,
    plan_cost,
)
from steerlab.envs.tinyphysics.dynamics import FuturePlan, State
from steerlab.surrogates.plants.moments import MomentPlant, Transitions


def next_lataccel(c: list[float], u: list[float], roll: float) -> float:
    """A car with one dead step and a lag, written out."""
    return 0.7 * c[-1] + 0.1 * c[-2] + 0.25 * u[-2] + 0.15 * u[-3] + 0.05 * roll


@pytest.fixture(scope="module")
def model() -> LinearModel:
    rng = np.random.default_rng(0)
    rows, steps = 30, 120
    steer = 0.3 * rng.standard_normal((rows, steps))
    roll = np.repeat(rng.normal(0, 0.5, (rows, 1)), steps, axis=1)
    speed = np.repeat(rng.uniform(0, 35, (rows, 1)), steps, axis=1)
    lataccel, mean = np.zeros((rows, steps)), np.zeros((rows, steps))
    for row in range(rows):
        for t in range(3, steps):
            found = next_lataccel(list(lataccel[row, :t]), list(steer[row, : t + 1]), roll[row, t])
            mean[row, t] = found
            lataccel[row, t] = found + 0.03 * rng.standard_normal()
    road = np.stack([roll, speed, np.zeros_like(speed)], axis=-1)
    parts = (steer, lataccel, road, mean[:, 20:], np.full((rows, steps - 20), 0.03))
    return LinearModel(Transitions(*(part.astype(np.float32) for part in parts)))


def test_model_is_the_car_at_every_speed(model: LinearModel) -> None:
    for knot in range(len(model.SPEEDS)):
        np.testing.assert_allclose(model.lataccel[knot], [0.7, 0.1, 0.0], atol=2e-3)
        np.testing.assert_allclose(model.steer[knot, :4], [0.0, 0.25, 0.15, 0.0], atol=2e-3)
    np.testing.assert_allclose(model.roll, 0.05, atol=2e-3)


def drive(controller: object, target: np.ndarray, offset: float = 0.0) -> tuple[list, list]:
    """Drive the car by hand at 20 m/s with a roll of 0.4; return its lataccels and steers."""
    c, u = [0.0] * 20, [0.0] * 20
    for t in range(len(target) - 50):
        if isinstance(controller, FeedforwardPID):
            state = State(np.array([0.4]), np.array([20.0]), np.array([0.0]))
            ahead = np.ones((1, 49))
            plan = FuturePlan(target[None, t + 1 : t + 50], 0.4 * ahead, 20 * ahead, 0 * ahead)
            steer = float(controller.update(target[t : t + 1], np.array([c[-1]]), state, plan)[0])
        else:
            road = torch.zeros(1, 50, 4)
            road[0, :, 0] = torch.from_numpy(target[t : t + 50])
            road[0, :, 1], road[0, :, 2] = 0.4, 20.0
            past = (torch.tensor([history[-20:]]) for history in (u, c))
            steer = float(controller(Observation(road, *past))[0])  # type: ignore[operator]
        u.append(steer)
        c.append(next_lataccel(c, u, 0.4) + offset)
    return c[20:], u[20:]


def cost(c: list[float], target: np.ndarray) -> float:
    errors = np.array(c) - target[: len(c)]
    return float(50 * np.mean(errors**2) + np.mean((np.diff(c) / 0.1) ** 2))


@pytest.mark.parametrize("offset", [0.0, 0.03])
def test_regulator_reaches_a_step_in_time_and_leaves_no_offset(
    model: LinearModel, offset: float
) -> None:
    target = np.concatenate([np.zeros(30), np.full(90, 0.5)])
    c, u = drive(PreviewRegulator(model, 1.0), target, offset)
    assert max(abs(x) for x in c[:15]) < 0.12
    assert c[29] > 0.1  # it starts before the step
    np.testing.assert_allclose(c[55:], 0.5, atol=0.01)
    pid = FeedforwardPID(model)
    pid.reset([None])
    followed, _ = drive(pid, target, offset)
    np.testing.assert_allclose(followed[60:], 0.5, atol=0.05)
    assert cost(c, target) < 0.8 * cost(followed, target)
    assert max(np.abs(u)) < 2


def test_regulator_is_optimal(model: LinearModel) -> None:
    """No other plan costs less in the model: the plan's first step moved either way is worse."""
    target = np.concatenate([np.zeros(12), np.full(100, 0.5)])
    c, u = [0.0] * 20, [0.0] * 20
    road = torch.zeros(1, 50, 4)
    road[0, :, 0], road[0, :, 2] = torch.from_numpy(target[:50]), 20.0
    seen = Observation(road, torch.tensor([u]), torch.tensor([c]))
    best = float(PreviewRegulator(model, 1.0)(seen)[0])

    def least(first: float) -> float:
        """Return the least cost over the other 49 steps, by ordinary least squares."""
        free = np.array(model.response(2, np.zeros(10), np.eye(50)[0] * first, np.zeros(50)))
        effect = np.stack([model.response(2, np.zeros(10), e, np.zeros(50)) for e in np.eye(50)[1:]], 1)  # fmt: skip
        change, jerk, track = np.eye(50) - np.eye(50, k=-1), 100 / 399 / 0.01, 50 * 100 / 400
        left = [track**0.5 * effect, jerk**0.5 * change @ effect, change[:, 1:]]
        right = [track**0.5 * (target[:50] - free), -(jerk**0.5) * change @ free]
        right.append(-change[:, 0] * first)
        a, b = np.concatenate(left), np.concatenate(right)
        rest = np.linalg.lstsq(a, b)[0]
        return float(((a @ rest - b) ** 2).sum())

    assert least(best) < min(least(best + 0.01), least(best - 0.01))


@pytest.fixture
def plant() -> MomentPlant:
    """A network that was made to be a simple car: 0.1 (3 steer of the step before) on top of c."""
    plant = MomentPlant((4, 4)).requires_grad_(False)
    for parameter in plant.parameters():
        parameter.zero_()
    plant.first_own.weight[-2, 18] = 3.0
    return plant


def seen_by(rows: int) -> Observation:
    rng = torch.Generator().manual_seed(0)
    road = 0.5 * torch.randn(rows, 50, 4, generator=rng).cumsum(1) / 5
    road[..., 2] = 20.0
    steer, lataccel = (0.1 * torch.randn(rows, 20, generator=rng) for _ in range(2))
    return Observation(road, steer, lataccel)


def test_cost_of_plans_is_the_loop_written_out(plant: MomentPlant) -> None:
    seen = seen_by(2)
    plans = 0.3 * torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    found = plan_cost(plant, seen, plans)
    for row in range(2):
        for place in range(3):
            c, before, total = float(seen.lataccel[row, -1]), float(seen.steer[row, -1]), 0.0
            for step in range(6):
                now = c + min(max(0.3 * before, -0.5), 0.5)
                error = float(seen.road[row, step, 0]) - now
                total += 50 * 100 / 400 * error**2 + 100 / 399 * ((now - c) / 0.1) ** 2
                c, before = now, float(plans[row, place, step])
            assert float(found[row, place]) == pytest.approx(total, rel=1e-4)


def test_plans_improve_on_the_policy(plant: MomentPlant) -> None:
    seen = seen_by(2)

    def hold(seen: Observation) -> torch.Tensor:
        return seen.steer[:, -1]

    def planned(planner: object, again: int = 6) -> float:
        """Return the cost of driving on with a planner."""
        now, total = seen, 0.0
        for _ in range(again):
            steer = planner(now)  # type: ignore[operator]
            total += float(plan_cost(plant, now, steer[:, None, None]).sum())
            c = now.lataccel[:, -1] + (0.3 * now.steer[:, -1]).clamp(-0.5, 0.5)
            road = torch.cat([now.road[:, 1:], now.road[:, -1:]], dim=1)
            past = (
                torch.cat([p[:, 1:], n[:, None]], 1)
                for p, n in ((now.steer, steer), (now.lataccel, c))
            )
            now = Observation(road, *past)
        return total

    held = planned(hold)
    assert planned(SampledPlans(plant, hold, candidates=24, horizon=6, deviation=0.2)) < 0.7 * held
    assert planned(GradientPlans(plant, hold, horizon=6, rate=0.03)) < 0.7 * held
