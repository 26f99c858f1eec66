"""CVaR against closed forms: telescoping, the two-path choice, and every mode of reset."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import example, given, settings, strategies as st
from numpy.typing import NDArray

from steerlab.envs.batch import BatchEnv, Rows, SingleEnv
from steerlab.envs.sb3 import SB3VecEnv
from steerlab.envs.wrappers.cvar import CVaRReward, CVaRVectorReward, RiskBudget, cvar
from steerlab.errors import InputError


class PathsBatch(BatchEnv):
    """One choice, then a wait: the safe path gives 0.8, the risky one 1 with probability 0.9.

    The means are 0.8 and 0.9; CVaR_a of the risky path is 1 - 0.1 / a for a >= 0.1 and 0 below, so
    that risky wins for a > 0.5 and safe for a < 0.5.
    """

    def __init__(self, num_envs: int = 1, **kwargs: Any) -> None:
        self.single_observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.single_action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        super().__init__(num_envs, **kwargs)
        self.t = np.zeros(num_envs, int)
        self.outcome = np.zeros(num_envs)

    def _reset(self, rows: Rows, options: dict[str, Any]) -> None:
        self.t[rows] = 0

    def _step(self, rows: Rows, actions: NDArray[Any]) -> tuple[Any, Any, Any]:
        where = self.row_indices(rows)
        luck = np.array([self.row_rng[i].random() < 0.9 for i in where])
        chosen = np.where(actions[:, 0] > 0, luck * 1.0, 0.8)
        self.outcome[where] = np.where(self.t[where] == 0, chosen, self.outcome[where])
        self.t[where] += 1
        return (
            0.5 * self.outcome[where],  # half at once, half after the wait
            self.t[where] >= 2,
            np.zeros(len(where), bool),
        )

    def _observe(self, rows: Rows) -> NDArray[Any]:
        return self.t[rows][:, None].astype(np.float32) / 2


class Paths(SingleEnv):
    batch_type = PathsBatch


def test_estimator() -> None:
    assert cvar([3, 1, 2, 4], 0.5) == 1.5
    assert cvar([3, 1, 2, 4], 1.0) == 2.5
    assert cvar([3, 1, 2, 4], 0.375) == pytest.approx((1 + 0.5 * 2) / 1.5)
    normal = np.random.default_rng(0).standard_normal(200_000)
    assert cvar(normal, 0.05) == pytest.approx(-2.0627, abs=0.02)
    for bad in (([], 0.5), ([1.0], 0.0)):
        with pytest.raises(InputError, match="CVaR"):
            cvar(*bad)


@given(
    returns=st.lists(st.floats(-100, 100), min_size=1, max_size=40),
    alpha=st.floats(0.02, 1.0),
)
def test_estimator_is_the_best_value_of_the_objective(returns: list[float], alpha: float) -> None:
    r = np.array(returns)
    best = max(b - np.maximum(b - r, 0).mean() / alpha for b in r)
    assert cvar(r, alpha) == pytest.approx(best, abs=1e-6)


@settings(deadline=None)
@given(
    rewards=st.lists(st.floats(-10, 10), min_size=1, max_size=60),
    threshold=st.floats(-20, 20),
    alpha=st.floats(0.05, 1.0),
    discount=st.sampled_from([1.0, 0.99, 0.9]),
)
@example(rewards=[1.0, -2.0], threshold=0.0, alpha=1.0, discount=0.9)
def test_payments_telescope(
    rewards: list[float], threshold: float, alpha: float, discount: float
) -> None:
    risk = RiskBudget(1, alpha, discount, threshold)
    risk.start(0)
    paid = [risk.transform(np.array([r]))[0] for r in rewards]
    weights = discount ** np.arange(len(rewards))
    total = float(weights @ rewards)
    expected = (max(threshold, 0) - max(threshold - total, 0)) / alpha
    if alpha == 1:  # the plain mean, whatever the threshold
        expected = total
        np.testing.assert_array_equal(paid, rewards)
    assert float(weights @ paid) == pytest.approx(expected, abs=1e-9)
    assert risk.total[0] == pytest.approx(total, abs=1e-9)


def test_alpha_of_one_pays_the_plain_rewards_from_the_first_episode_on() -> None:
    single: Any = CVaRReward(Paths(), alpha=1.0, max_steps=2)
    vector = CVaRVectorReward(PathsBatch(3), alpha=1.0, max_steps=2)
    single.reset(seed=0)
    for _ in range(30):  # past the warm-up of the threshold, which has no say
        paid = [single.step(np.array([1.0], np.float32)) for _ in range(2)]
        for _, reward, _, _, info in paid:
            assert reward == info["plain_reward"]
        single.reset()
    vector.reset(seed=0)
    for _ in range(90):
        _, rewards, _, _, infos = vector.step(np.ones((3, 1), np.float32))
        np.testing.assert_array_equal(rewards, infos["plain_reward"])


def test_alternating_policy_and_threshold_can_stop_short() -> None:
    """What the page says: at b = 1.6 the sure 1.6 looks best, at b = 2 the better lottery does."""
    sure, lottery = np.full(10, 1.6), np.array([1.0] * 2 + [2.0] * 8)
    assert cvar(sure, 0.6) == pytest.approx(1.6)
    assert cvar(lottery, 0.6) == pytest.approx(5 / 3)

    def worth(returns: NDArray[np.float64], threshold: float) -> float:
        risk = RiskBudget(10, 0.6, threshold=threshold)
        risk.start(slice(None))
        return float(risk.transform(returns).mean())

    assert worth(sure, 1.6) > worth(lottery, 1.6)
    assert worth(sure, 2.0) < worth(lottery, 2.0)


def play(alpha: float, risky: bool, threshold: float, episodes: int) -> float:
    """Return the mean of the rewards of a fixed choice, plus the constant of the objective."""
    env = CVaRVectorReward(
        PathsBatch(episodes, autoreset_mode="Disabled"), alpha, 2, threshold=threshold
    )
    env.reset(seed=0)
    actions = np.full((episodes, 1), 1.0 if risky else -1.0, np.float32)
    paid = env.step(actions)[1] + env.step(actions)[1]
    return float(paid.mean()) + threshold - max(threshold, 0.0) / alpha


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.4, 0.6, 0.9, 1.0])
def test_two_paths(alpha: float) -> None:
    """The objective of the rewards, at its best threshold, is CVaR; it picks the path known to be best."""
    n = 4000
    best = {}
    for risky in (False, True):
        best[risky] = max(play(alpha, risky, b, n) for b in (0.0, 0.8, 1.0))
    expected = 1 - 0.1 / alpha if alpha >= 0.1 else 0.0
    assert best[False] == pytest.approx(0.8, abs=1e-6)
    assert best[True] == pytest.approx(expected, abs=4 * 0.3 / np.sqrt(n) / alpha)
    assert (best[True] > best[False]) == (alpha > 0.5)


def test_threshold_finds_the_quantile_and_is_kept() -> None:
    risk = RiskBudget(500, alpha=0.2, window=5000)
    rng = np.random.default_rng(0)
    for _ in range(8):
        risk.start(slice(None))
        risk.transform(rng.normal(3.0, 2.0, 500))
        risk.finish(np.arange(500))
    assert risk.threshold == pytest.approx(3 + 2 * -0.8416, abs=0.1)
    copy = RiskBudget(1, alpha=0.2)
    copy.load_state_dict(risk.state_dict())
    assert copy.threshold == risk.threshold
    copy.start(0)
    assert copy.left[0] == risk.threshold


def test_soft_risk_starts_from_the_mean() -> None:
    risk = RiskBudget(1, alpha=0.1, soften=0.5)
    assert risk.alpha == 1.0
    risk.set_progress(0.25)
    assert risk.alpha == pytest.approx(0.55)
    risk.set_progress(0.8)
    assert risk.alpha == pytest.approx(0.1)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_vector_equals_single(mode: AutoresetMode) -> None:
    """Rows of the vector wrapper against the single wrapper inside gymnasium's own vector."""
    fixed: Any = {"alpha": 0.3, "max_steps": 2, "threshold": 0.9, "warm_up": 1000}
    ours = CVaRVectorReward(PathsBatch(3, autoreset_mode=mode), **fixed)
    theirs: Any = SyncVectorEnv([lambda: CVaRReward(Paths(), **fixed)] * 3, autoreset_mode=mode)
    a, b = ours.reset(seed=4)[0], theirs.reset(seed=4)[0]
    np.testing.assert_array_equal(a, b)
    assert a.shape == (3, 3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        actions = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        x: Any = ours.step(actions)
        y: Any = theirs.step(actions)
        for i in range(4):
            np.testing.assert_allclose(x[i], y[i], atol=1e-6)
        if "final_obs" in x[4]:
            for row in np.flatnonzero(x[4]["_final_obs"]):
                np.testing.assert_allclose(
                    x[4]["final_obs"][row], y[4]["final_obs"][row], atol=1e-6
                )
                assert x[4]["final_obs"][row][2] == 0  # no time left


def test_rows_that_are_reset_pay_nothing() -> None:
    env = CVaRVectorReward(PathsBatch(2, autoreset_mode="NextStep"), 0.5, 2, threshold=1.0)
    env.reset(seed=0)
    safe = np.full((2, 1), -1.0, np.float32)
    assert (env.step(safe)[1] == 0.8).all()
    o, r, te, *_ = env.step(safe)
    assert te.all()
    np.testing.assert_allclose(o[:, 1], 0.2, atol=1e-6)  # what is left of the budget
    o, r, te, *_ = env.step(safe)
    assert (r == 0).all()
    np.testing.assert_allclose(o[:, 1:], [[1.0, 1.0]] * 2)


def test_partial_reset() -> None:
    env = CVaRVectorReward(PathsBatch(2, autoreset_mode="Disabled"), 0.5, 2, threshold=1.0)
    env.reset(seed=0)
    safe = np.full((2, 1), -1.0, np.float32)
    env.step(safe)
    o, _ = env.reset(options={"reset_mask": np.array([True, False])})
    np.testing.assert_allclose(o[:, 1], [1.0, 0.6], atol=1e-6)


def test_a_partial_reset_begins_second_episodes() -> None:
    """With ``first_only`` they do not count; after a reset of all rows the next ones do."""
    env = CVaRVectorReward(
        PathsBatch(2, autoreset_mode="Disabled"), 0.5, 2, threshold=1.0, first_only=True
    )
    env.reset(seed=0)
    safe = np.full((2, 1), -1.0, np.float32)
    for _ in range(2):
        for _ in range(2):
            env.step(safe)
        env.reset(options={"reset_mask": np.array([True, True])})
    assert len(env.risk.returns) == 2
    env.reset(seed=1)
    for _ in range(2):
        env.step(safe)
    assert len(env.risk.returns) == 4


def test_through_the_adapter() -> None:
    venv = SB3VecEnv(
        CVaRVectorReward(PathsBatch(2, autoreset_mode="SameStep"), 0.5, 2, threshold=1.0)
    )
    assert venv.observation_space.shape == (3,)
    venv.reset()
    safe = np.full((2, 1), -1.0, np.float32)
    venv.step(safe)
    observations: Any
    observations, _, done, infos = venv.step(safe)
    assert done.all()
    np.testing.assert_allclose(infos[0]["terminal_observation"][1:], [0.2, 0.0], atol=1e-6)
    assert infos[0]["plain_reward"] == pytest.approx(0.4)
    assert not infos[0]["TimeLimit.truncated"]
    np.testing.assert_allclose(observations[:, 1:], [[1.0, 1.0]] * 2)


def test_reward_from_info() -> None:
    """KinematicDriver's reward before shaping, in both ways of automatic reset."""
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        env: Any = gym.make_vec("KinematicDriver-v0", num_envs=6, autoreset_mode=mode)
        wrapped = CVaRVectorReward(env, 0.2, 500, 100.0, "base_reward", threshold=50.0)
        wrapped.reset(seed=0)
        rng = np.random.default_rng(0)
        total, ends = np.zeros(6), 0
        for _ in range(150):
            *_, te, tr, info = wrapped.step(rng.uniform(-1, 1, (6, 2)))
            assert not tr.any()
            total += info["plain_reward"]
            ended = np.flatnonzero(te)
            source = info["final_info"] if mode is AutoresetMode.SAME_STEP and ended.size else info
            np.testing.assert_allclose(total[ended], source["base_return"][ended], rtol=1e-4)
            total[ended] = 0
            ends += len(ended)
        assert ends > 6


def test_bad_use_is_refused() -> None:
    for kwargs, message in (
        ({"alpha": 0.0, "max_steps": 2}, "alpha"),
        ({"alpha": 0.5, "max_steps": 0}, "max_steps"),
        ({"alpha": 0.5, "max_steps": 2, "discount": 1.5}, "discount"),
        ({"alpha": 0.5, "max_steps": 2, "soften": 2}, "soften"),
        ({"alpha": 0.5, "max_steps": 2, "warm_up": 0}, "warm_up"),
        ({"alpha": 0.5, "max_steps": 2, "budget_scale": 0}, "budget_scale"),
    ):
        with pytest.raises(InputError, match=message):
            CVaRReward(Paths(), **kwargs)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="flat Box"):
        CVaRReward(gym.make("FrozenLake-v1"), 0.5, 10)
    env = CVaRReward(Paths(), 0.5, 2, discount=0.99)
    env.check_discount(0.99)
    with pytest.raises(InputError, match=r"gamma=1.0 differs"):
        env.check_discount(1.0)


def test_without_alpha_the_sum_is_the_objective_times_alpha() -> None:
    per_alpha, plain = (RiskBudget(1, alpha=0.1, threshold=2.0, per_alpha=p) for p in (True, False))
    for rewards in (0.5, -0.3, 1.1, 4.0):
        paid = per_alpha.transform(np.array([rewards]))
        np.testing.assert_allclose(plain.transform(np.array([rewards])), 0.1 * paid)
