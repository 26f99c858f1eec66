"""The sampler against closed forms, alone and in KinematicDriver-v0."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.wrappers.cvar import CVaRVectorReward, RiskBudget, cvar
from steerlab.envs.wrappers.risk_sampler import (
    RiskSampler,
    effective_sample_size,
    weighted_quantile,
)
from steerlab.errors import InputError


def drawn(sampler: RiskSampler, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return sampler.draw(rng.random((n, len(sampler.names))), rng.random(n))


def test_known_answer() -> None:
    """Of two numbers the first decides: below a half is the worst share, and nothing else."""
    sampler = RiskSampler(("risky", "idle"), bins=2, original=0.2, rate=0.5)
    for k in range(30):
        numbers, weights = drawn(sampler, 4000, k)
        sampler.update(numbers, numbers[:, 0] < 0.5, weights)
    # The idle bar x is kept at a twentieth before the two are scaled to 1: x (1.05 - x / 2) = 0.05.
    idle = 1.05 - np.sqrt(1.05**2 - 0.1)
    np.testing.assert_allclose(sampler.shares[0], [1 - idle, idle], rtol=1e-3)
    np.testing.assert_allclose(sampler.shares[1], [0.5, 0.5], atol=0.05)
    # So the share of risky episodes and the weights are known.
    sampler.shares[1] = 0.5
    numbers, weights = drawn(sampler, 200_000)
    risky = numbers[:, 0] < 0.5
    low, high = (1 / (0.2 + 0.8 * 2 * share) for share in sampler.shares[0])
    assert risky.mean() == pytest.approx(0.1 + 0.8 * (1 - idle), abs=3e-3)
    np.testing.assert_allclose(weights[risky], low)
    np.testing.assert_allclose(weights[~risky], high)
    # The mean weight is 1, so the effective share is 1 over the mean weight of original draws.
    share = effective_sample_size(weights) / len(weights)
    assert share == pytest.approx(1 / (0.5 * low + 0.5 * high), rel=0.01)


@given(st.integers(0, 1000))
def test_weights_undo_the_sampler(seed: int) -> None:
    """Whatever the histograms: weighted means are those of uniform numbers, weights are bounded."""
    rng = np.random.default_rng(seed)
    sampler = RiskSampler(("a", "b", "c"), bins=5, original=0.25)
    sampler.shares = rng.dirichlet(np.ones(5), 3) * 0.9 + 0.02
    numbers, weights = drawn(sampler, 40_000, seed)
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert weights.max() <= 4 + 1e-9
    assert weights.mean() == pytest.approx(1, abs=0.05)
    for values, mean in ((numbers[:, 0], 0.5), (numbers[:, 1] * numbers[:, 2], 0.25)):
        assert (weights * values).mean() == pytest.approx(mean, abs=0.05)


@given(
    values=st.lists(st.floats(-100, 100), min_size=1, max_size=30),
    share=st.floats(0, 1),
)
def test_quantile_is_numpys_with_equal_weights(values: list[float], share: float) -> None:
    found = weighted_quantile(np.array(values), np.full(len(values), 0.3), share)
    assert found == pytest.approx(np.quantile(values, share), abs=1e-6)


def test_threshold_is_that_of_the_original_draws() -> None:
    """Returns are the number drawn; the sampler prefers low ones, the quantile must not move."""
    sampler = RiskSampler(("return",), rate=0.5)
    risk = RiskBudget(500, alpha=0.1, window=5000, sampler=sampler)
    for k in range(40):
        risk.start(slice(None))
        numbers, weights = drawn(sampler, 500, k)
        risk.importance[:], risk.conditions[:] = weights, numbers
        risk.transform(numbers[:, 0])
        risk.finish(np.arange(500))
    assert sampler.shares[0, 0] > 0.5
    assert 0.1 < risk.effective < 0.7
    assert risk.threshold == pytest.approx(0.1, abs=0.02)
    assert np.quantile(list(risk.returns), 0.1) < 0.07
    copy = RiskBudget(500, alpha=0.1, sampler=RiskSampler(("return",)))
    copy.load_state_dict(risk.state_dict())
    np.testing.assert_array_equal(copy.sampler.shares, sampler.shares)  # type: ignore[union-attr]


def test_what_is_paid_is_weighted() -> None:
    """The weighted mean of the rewards estimates the objective of the original draws."""
    sampler = RiskSampler(("return",), bins=4)
    sampler.shares[0] = [0.7, 0.1, 0.1, 0.1]
    n = 100_000
    numbers, weights = drawn(sampler, n)
    risk = RiskBudget(n, alpha=0.2, threshold=0.2)
    risk.start(slice(None))
    risk.importance[:] = weights
    paid = risk.transform(numbers[:, 0])
    objective = 0.2 + paid.mean() - 0.2 / 0.2
    assert objective == pytest.approx(cvar(np.random.default_rng(1).random(n), 0.2), abs=5e-3)


def test_only_first_episodes_count() -> None:
    risk = RiskBudget(3, alpha=0.5, first_only=True)
    risk.start(slice(None))
    for rows in ([0], [0, 1], [2]):
        risk.finish(rows)
    assert len(risk.returns) == 3
    risk.first[:] = True
    risk.finish([1])
    assert len(risk.returns) == 4


def test_task_draws_from_the_sampler() -> None:
    sampler = RiskSampler(("friction", "kind"), bins=4)
    sampler.shares[0] = [0.97, 0.01, 0.01, 0.01]
    task = KinematicDriverVectorEnv(400, autoreset_mode="SameStep")
    task.use_sampler(sampler)
    env = CVaRVectorReward(task, alpha=0.05, max_steps=500, sampler=sampler)
    _, info = env.reset(seed=0)
    numbers = task.conditions
    np.testing.assert_allclose(info["friction"], 0.3 + 0.8 * numbers[:, 0], rtol=1e-5)
    slippery = (info["friction"] < 0.5).mean()
    assert slippery == pytest.approx(0.2 * 0.25 + 0.8 * 0.97, abs=0.06)
    np.testing.assert_allclose(env.risk.importance, sampler.weights(numbers))
    np.testing.assert_array_equal(env.risk.conditions, numbers)
    # The other values are those of the row's seed, sampler or not.
    _, plain = KinematicDriverVectorEnv(400).reset(seed=0)
    np.testing.assert_array_equal(info["lateral_delay"], plain["lateral_delay"])
    before = env.risk.importance.copy()
    for _ in range(80):
        env.step(np.ones((400, 2)))
    assert (env.risk.importance != before).any()
    assert len(env.risk.returns) > 400


def test_bad_use_is_refused() -> None:
    with pytest.raises(InputError, match="bins"):
        RiskSampler(("a",), bins=1)
    with pytest.raises(InputError, match="original"):
        RiskSampler(("a",), original=0.0)
    with pytest.raises(InputError, match="did you mean"):
        KinematicDriverVectorEnv(2).use_sampler(RiskSampler(("frictoin",)))
