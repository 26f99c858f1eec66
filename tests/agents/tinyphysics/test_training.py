"""The differentiable rollout, its gradient, and the training on it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steerlab.agents.checkpoint import load_checkpoint
from steerlab.agents.tinyphysics.model import Observation, PolicyShape, PreviewPolicy
from steerlab.agents.tinyphysics.rollout import Roads, SoftRollout
from steerlab.agents.tinyphysics.train import KIND, GradientConfig, improve, read_policy, varied
from steerlab.envs.tinyphysics.reward import official_costs
from steerlab.errors import InputError
from steerlab.surrogates.plants.moments import MomentPlant
from steerlab.surrogates.segments.synthetic import default_segments


@pytest.fixture(scope="module")
def roads() -> Roads:
    return Roads.of(default_segments()[:4])


@pytest.fixture
def policy(roads: Roads) -> PreviewPolicy:
    torch.manual_seed(0)
    policy = PreviewPolicy(PolicyShape(hidden=8))
    policy.fit_normaliser(roads.typical(0))
    return policy


@pytest.fixture
def plant() -> MomentPlant:
    """Weights at random, and a gain of 1 from the steer of the step before."""
    torch.manual_seed(1)
    plant = MomentPlant((8, 8)).requires_grad_(False)
    plant.first_own.weight[-2, 18] += 3.0
    plant.own_scale.fill_(0.5)
    return plant


class FirstOrder(nn.Module):
    """A plant that can be computed by hand: half way to the steer of two steps ago, plus roll."""

    def look_behind(self, road: Tensor) -> Tensor:
        return road[..., -1, 0]

    def predict(self, behind: Tensor, steer: Tensor, lataccel: Tensor) -> tuple[Tensor, Tensor]:
        mean = 0.5 * lataccel[:, -1] + 0.5 * steer[:, -3] + 0.1 * behind
        return mean, torch.full_like(mean, 0.03)


class Proportional(nn.Module):
    """A policy that can be computed by hand."""

    def look_ahead(self, road: Tensor) -> tuple[Tensor, ...]:
        return road[..., 2, 0], road[..., 1, 2], road[..., 0, 1]

    def act(self, ahead: tuple[Tensor, ...], steer: Tensor, lataccel: Tensor) -> Tensor:
        target, speed, roll = ahead
        return 0.3 * (target - lataccel[:, -1]) + 0.01 * speed + 0.2 * steer[:, -2] - 0.1 * roll


def test_rollout_is_the_loop_written_out(roads: Roads) -> None:
    noise = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    soft = SoftRollout(FirstOrder(), roads)  # type: ignore[arg-type]
    costs = torch.stack(list(soft.drive(Proportional(), noise)))  # type: ignore[arg-type]
    road, logged = roads.road.double().numpy(), roads.steer.double().numpy()
    for row in range(4):
        c = list(road[row, :100, 0])
        applied = [0.0] * 80 + list(logged[row])
        noted = list(0.58 * (road[row, :100, 0] - road[row, :100, 1]))
        for t in range(100, 500):
            steer = 0.3 * (road[row, t + 2, 0] - c[t - 1]) + 0.01 * road[row, t + 1, 2]
            steer += 0.2 * noted[t - 2] - 0.1 * road[row, t, 1]
            applied.append(steer)
            noted.append(steer)
            now = 0.5 * c[t - 1] + 0.5 * applied[t - 2] + 0.1 * road[row, t, 1]
            now += 0.03 * float(noise[t - 100, row])
            c.append(min(max(now, c[t - 1] - 0.5), c[t - 1] + 0.5))
        np.testing.assert_allclose(soft.lataccel[row], c[-20:], atol=1e-4)
        expected = official_costs(road[row : row + 1, :500, 0], np.array([c])).total_cost[0]
        assert float(costs[:, row].sum()) == pytest.approx(expected, rel=1e-4)


def test_gradient_is_that_of_finite_differences(
    roads: Roads, plant: MomentPlant, policy: PreviewPolicy
) -> None:
    plant, policy = plant.double(), policy.double()
    exact = Roads(roads.road.double(), roads.steer.double())
    noise = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def cost() -> Tensor:
        return torch.stack(list(SoftRollout(plant, exact).drive(policy, noise))).sum()

    cost().backward()
    rng = torch.Generator().manual_seed(1)
    for parameter in policy.parameters():
        assert parameter.grad is not None
        direction = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
        along = float((parameter.grad * direction).sum())
        step, sides = 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                sides.append(float(cost()))
                parameter.sub_(sign * step * direction)
        assert along == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5, abs=1e-6)


def test_last_actions_are_not_learned_from(
    roads: Roads, plant: MomentPlant, policy: PreviewPolicy
) -> None:
    noise = torch.zeros(10, 4)
    costs = list(SoftRollout(plant, roads).drive(policy, noise, learned=0))
    assert not torch.stack(costs).requires_grad
    torch.stack(list(SoftRollout(plant, roads).drive(policy, noise, learned=5))).sum().backward()
    assert float(policy.last.bias.grad.abs()) > 0  # type: ignore[union-attr]


def test_looking_ahead_at_once_changes_nothing(roads: Roads, policy: PreviewPolicy) -> None:
    seen = roads.typical(1)
    policy.requires_grad_(False)
    slow = []
    for i in range(0, len(seen.road), 7):
        one = Observation(*(part[i : i + 1] for part in seen))
        slow.append(policy(one))
    torch.testing.assert_close(policy(seen)[::7], torch.cat(slow))


class Interrupted(Exception):
    pass


def test_resumed_training_ends_with_the_same_weights(
    roads: Roads, plant: MomentPlant, tmp_path: Path
) -> None:
    config = GradientConfig(updates=6, rows=10, horizon=40, evaluate_every=2)

    def train(folder: Path, stop: int = 99) -> PreviewPolicy:
        torch.manual_seed(5)
        policy = PreviewPolicy(PolicyShape(hidden=8))
        calls = 0

        def metrics(policy: PreviewPolicy) -> dict[str, float]:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise Interrupted
            return {}

        return improve(policy, plant, roads, config, folder, metrics)

    whole = train(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", stop=2)
    assert load_checkpoint(tmp_path / "cut" / "last.pt", KIND)["step"] == 1
    cut = train(tmp_path / "cut")
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(one, other)
    stored = read_policy(tmp_path / "cut" / "last.pt")
    assert torch.equal(stored["last.weight"], whole.last.weight)


def test_training_lowers_the_cost(roads: Roads, tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy = PreviewPolicy(PolicyShape(hidden=16))
    policy.fit_normaliser(roads.typical(0))
    noise = torch.zeros(400, 4)

    def cost(policy: PreviewPolicy) -> float:
        with torch.no_grad():
            soft = SoftRollout(FirstOrder(), roads)  # type: ignore[arg-type]
            return float(torch.stack(list(soft.drive(policy, noise))).sum(dim=0).mean())

    before = cost(policy)
    config = GradientConfig(updates=24, rows=8, learning_rate=2e-2, varied=0.0, ema_decay=0.5)
    trained = improve(policy, FirstOrder(), roads, config, tmp_path)  # type: ignore[arg-type]
    assert cost(trained) < 0.2 * before


def test_varied_routes_keep_speed_and_are_scaled_as_a_whole(roads: Roads) -> None:
    rng = torch.Generator().manual_seed(0)
    same = varied(roads, 0.0, rng)
    assert torch.equal(same.road, roads.road)
    other = varied(roads, 1.0, rng)
    assert torch.equal(other.road[..., 2:], roads.road[..., 2:])
    for part in range(2):
        ratio = other.road[..., part] / roads.road[..., part]
        assert float((ratio - ratio[:, :1]).nan_to_num().abs().max()) < 1e-4
        assert ((ratio[:, 0].abs() >= 0.699) & (ratio[:, 0].abs() <= 1.301)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 30}, "horizon=30"),
        ({"lookahead": 50}, "lookahead=50"),
        ({"rows": 0}, "rows=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"varied": 1.5}, "varied=1.5"),
    ],
)
def test_options_out_of_range(
    options: dict[str, float],
    message: str,
    roads: Roads,
    plant: MomentPlant,
    policy: PreviewPolicy,
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match=message):
        improve(policy, plant, roads, GradientConfig(**options), tmp_path)  # type: ignore[arg-type]
