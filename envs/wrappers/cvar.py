"""CVaR of the return as an ordinary reward, for any algorithm that maximises the mean.

CVaR_alpha is the mean of the worst share ``alpha`` of all returns R. It is the largest value of
``b - E[max(b - R, 0)] / alpha`` over b (Rockafellar and Uryasev 2000), attained at the
alpha-quantile. For a fixed b a policy that sees the budget y that is left of b can be optimal
(Baeuerle and Ott 2011)::

    y_0 = b,    y_{t+1} = (y_t - r_t) / discount

so the wrapper appends y to the observation and gives the reward ::

    (max(y_t, 0) - discount * max(y_{t+1}, 0)) / alpha

whose discounted sum is ``(max(b, 0) - max(b - R, 0)) / alpha``: up to a constant, the objective.
Progress is rewarded until the budget is met, and not after that. Unlike ordinary shaping, the last step keeps the
positive part of the budget that is left: it is the objective. With alpha = 1 the objective is the plain
mean, and every step has its plain reward.

Improving the policy for a given b and moving b to the quantile of its returns are two steps of a
coordinate ascent. It can stop at a policy that is best for its own b and not best of all: with
alpha = 0.6, a sure return of 1.6 (b = 1.6) is left by no step, although a return of 1 with
probability 0.2 and of 2 otherwise has a CVaR of 5/3 (b = 2). Start from a high ``threshold``, or
from the mean with ``soften``, and compare several starts.
"""

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from steerlab.envs.wrappers.risk_sampler import (
    RiskSampler,
    effective_sample_size,
    weighted_quantile,
)
from steerlab.errors import InputError
from steerlab.types import Floats

#: What the wrappers append to the observation.
EXTRA = ("budget", "time_left")


class RiskBudget:
    """The budgets of N rows, the threshold b and how it follows the returns.

    Args:
        rows: Number of rows.
        alpha: Share of the worst returns that counts, in (0, 1]; 1 gives the plain rewards.
        discount: The learner's discount.
        threshold: First value of b; from ``warm_up`` episodes on it is the ``alpha``-quantile of the
            last ``window`` returns. An episode keeps the value that it began with.
        window: Number of returns that the quantile is taken of.
        warm_up: Number of returns before the threshold moves.
        soften: Share of the training over which ``alpha`` falls from 1 to its value (soft risk:
            CeSoR, arXiv 2205.05138; the learner has to see success first). 0 = none.
        first_only: Count only the first episode of a row after a reset of all rows. For learners that
            reset all rows every so often: among the episodes that follow, only short ones, most of
            them failures, end before the next reset.
        sampler: Draws harder episodes more often; see :mod:`risk_sampler`. The environment must
            draw from it too, as ``KinematicDriver-v0`` does.
        per_alpha: Divide the reward by alpha, as the objective does. Without, an episode's
            objective is multiplied by its alpha: for one alpha the same task, and while alpha falls
            from 1 to 0.05 a critic need not follow a scale that grows twentyfold.
    """

    def __init__(
        self,
        rows: int,
        alpha: float,
        discount: float = 1.0,
        threshold: float = 0.0,
        window: int = 1000,
        warm_up: int = 20,
        soften: float = 0.0,
        first_only: bool = False,
        sampler: RiskSampler | None = None,
        per_alpha: bool = True,
    ) -> None:
        if not 0 < alpha <= 1:
            raise InputError(f"alpha={alpha} must be in (0, 1]; 1 is the plain mean")
        if not 0 < discount <= 1:
            raise InputError(f"discount={discount} must be in (0, 1]")
        if not 1 <= warm_up <= window:
            raise InputError(f"warm_up={warm_up} must be at least 1 and at most window={window}")
        if not 0 <= soften <= 1:
            raise InputError(f"soften={soften} must be in [0, 1]")
        self.target, self.discount, self.soften = alpha, discount, soften
        self.alpha = 1.0 if soften else alpha
        self.threshold, self.warm_up = threshold, warm_up
        self.first_only, self.sampler, self.per_alpha = first_only, sampler, per_alpha
        self.returns: deque[float] = deque(maxlen=window)
        self.weights: deque[float] = deque(maxlen=window)  # of the episodes with these returns
        self.importance = np.ones(rows)  # weight of the episode of each row
        self.first = np.ones(rows, dtype=bool)
        self.conditions = np.zeros((rows, len(sampler.names) if sampler else 0))
        self.gathered: list[tuple[Floats, Floats, Floats]] = []  # since the sampler's last update
        self.effective = 1.0  # effective sample size at that update, as a share of the episodes
        self.left = np.zeros(rows)
        self.total = np.zeros(rows)
        self.weight = np.ones(rows)
        self.row_alpha = np.full(rows, self.alpha)

    def start(self, rows: Any) -> None:
        """Begin an episode in ``rows`` with the threshold and the alpha of now."""
        self.left[rows], self.row_alpha[rows] = self.threshold, self.alpha
        self.total[rows], self.weight[rows] = 0.0, 1.0

    def transform(self, rewards: Floats) -> Floats:
        """Return the rewards (N,) of a step for CVaR, given its plain rewards (N,), and update the budgets."""
        left = (self.left - rewards) / self.discount
        shaped = np.maximum(self.left, 0.0) - self.discount * np.maximum(left, 0.0)
        shaped = np.where(
            self.row_alpha == 1.0, rewards, shaped
        )  # b may be infinite: the plain mean
        self.total += self.weight * rewards
        self.weight *= self.discount
        self.left = left
        return self.importance * shaped / (self.row_alpha if self.per_alpha else 1.0)

    def finish(self, rows: Any) -> None:
        """Take in the returns of ``rows``, whose episodes are over, and move the threshold."""
        rows = np.asarray(rows)
        if self.first_only:
            first = self.first[rows]
            self.first[rows] = False
            rows = rows[first]
        self.returns.extend(self.total[rows].tolist())
        self.weights.extend(self.importance[rows].tolist())
        if self.sampler and len(rows):
            self.gathered.append((self.conditions[rows], self.total[rows], self.importance[rows]))
            if sum(len(returns) for _, returns, _ in self.gathered) >= len(self.total):
                self._fit_sampler(self.sampler)
        if len(self.returns) >= self.warm_up:
            self.threshold = self._quantile(self.alpha)

    def _fit_sampler(self, sampler: RiskSampler) -> None:
        """Fit the sampler to the worst of the episodes since the last time."""
        drawn, returns, weights = (
            np.concatenate(part) for part in zip(*self.gathered, strict=True)
        )
        self.gathered.clear()
        self.effective = effective_sample_size(weights) / len(weights)
        sampler.update(drawn, returns <= self._quantile(self.target), weights)

    def _quantile(self, share: float) -> float:
        return weighted_quantile(np.array(self.returns), np.array(self.weights), share)

    def set_progress(self, share: float) -> None:
        """Tell how much of the training is done, in [0, 1], for the soft-risk schedule."""
        done = min(share / self.soften, 1.0) if self.soften else 1.0
        self.alpha = 1.0 - (1.0 - self.target) * done

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep; ``alpha`` follows from :meth:`set_progress`."""
        sampler = {"sampler": self.sampler.state_dict()} if self.sampler else {}
        return {
            "threshold": self.threshold,
            "returns": [float(r) for r in self.returns],
            "weights": [float(w) for w in self.weights],
            **sampler,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; episodes that begin from now on use it."""
        self.threshold = float(state["threshold"])
        for kept, name in ((self.returns, "returns"), (self.weights, "weights")):
            kept.clear()
            kept.extend(state[name])
        if self.sampler:
            self.sampler.load_state_dict(state["sampler"])


class _Augmented:
    """What both wrappers share: the larger observation and the checks."""

    def _set_up(
        self,
        space: Any,
        rows: int,
        max_steps: int,
        budget_scale: float,
        reward_key: str | None,
        options: dict[str, Any],
    ) -> Box:
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise InputError(
                f"CVaRReward needs a flat Box observation, not {space}; flatten it first"
            )
        if max_steps < 1:
            raise InputError(f"max_steps={max_steps} must be the length of an episode in steps")
        if budget_scale <= 0:
            raise InputError(f"budget_scale={budget_scale} must be positive")
        self.risk = RiskBudget(rows, **options)
        self.max_steps, self.budget_scale, self.reward_key = max_steps, budget_scale, reward_key
        self.steps = np.zeros(rows, int)
        edge = np.full(len(EXTRA), np.inf)
        return Box(
            np.concatenate([space.low, -edge]).astype(np.float32),
            np.concatenate([space.high, edge]).astype(np.float32),
            dtype=np.float32,
        )

    def check_discount(self, discount: float) -> None:
        """Raise an error unless the learner discounts like the wrapper.

        Raises:
            InputError: With another discount the rewards do not add up to the objective.
        """
        if discount != self.risk.discount:
            raise InputError(
                f"the learner's gamma={discount} differs from CVaRReward's "
                f"discount={self.risk.discount}; make them equal"
            )

    def _extra(self, rows: Any) -> NDArray[np.float32]:
        """Return what is appended to the observations of ``rows``, (n, 2)."""
        budget = self.risk.left[rows] / self.budget_scale
        time_left = 1.0 - self.steps[rows] / self.max_steps
        return np.stack([budget, time_left], axis=-1).astype(np.float32)


class CVaRReward(_Augmented, gym.Wrapper[Any, Any, Any, Any]):
    """CVaR of the return as the reward of a single environment; see the module.

    ``info`` keeps the ``plain_reward``. Time limits become terminations, since the return is final
    there and the time that is left is in the observation.

    Args:
        env: Environment with a flat Box observation.
        alpha: Share of the worst returns that counts.
        max_steps: Length of an episode in steps, for the time left.
        budget_scale: Divides the budget in the observation.
        reward_key: Entry of ``info`` that is the reward, instead of the reward (for instance the
            one before shaping).
        options: Further arguments of :class:`RiskBudget`.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        alpha: float,
        max_steps: int,
        budget_scale: float = 1.0,
        reward_key: str | None = None,
        **options: Any,
    ) -> None:
        gym.Wrapper.__init__(self, env)
        self.observation_space = self._set_up(
            env.observation_space, 1, max_steps, budget_scale, reward_key,
            {"alpha": alpha, **options},
        )  # fmt: skip

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode with the threshold of now."""
        observation, info = self.env.reset(**kwargs)
        self.risk.start(0)
        self.steps[0] = 0
        return self._join(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        plain = reward if self.reward_key is None else info[self.reward_key]
        shaped = self.risk.transform(np.array([float(plain)]))
        self.steps[0] += 1
        if terminated or truncated:
            self.risk.finish([0])
        info = {**info, "plain_reward": float(plain)}
        return self._join(observation), float(shaped[0]), terminated or truncated, False, info

    def _join(self, observation: Any) -> NDArray[np.float32]:
        return np.concatenate([observation, self._extra(0)]).astype(np.float32)


class CVaRVectorReward(_Augmented, VectorWrapper):
    """The same for a vector environment, in any mode of automatic reset.

    In next-step mode the step that resets a row has the reward 0; in same-step mode ``final_obs`` carries
    the budget and the time with which the episode ended. See :class:`CVaRReward` for the arguments.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        alpha: float,
        max_steps: int,
        budget_scale: float = 1.0,
        reward_key: str | None = None,
        **options: Any,
    ) -> None:
        VectorWrapper.__init__(self, env)
        mode = env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise InputError(
                "CVaRVectorReward needs metadata['autoreset_mode'] to know when rows are reset"
            )
        self.mode = mode
        self.single_observation_space = self._set_up(
            env.single_observation_space, env.num_envs, max_steps, budget_scale, reward_key,
            {"alpha": alpha, **options},
        )  # fmt: skip
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self._over = np.zeros(env.num_envs, dtype=bool)

    def reset(
        self,
        *,
        seed: Any = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes in all rows, or in those of ``options["reset_mask"]``."""
        rows = (options or {}).get("reset_mask", slice(None))
        observations, infos = self.env.reset(seed=seed, options=options)
        if isinstance(rows, slice):  # a reset of some rows begins their second episodes
            self.risk.first[:] = True
        self._start(rows)
        self._over[rows] = False
        return self._join(observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Advance all rows."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        over = terminated | truncated
        plain = self._plain_rewards(rewards, infos, over)
        began = self._over if self.mode is AutoresetMode.NEXT_STEP else np.zeros_like(over)
        shaped = self.risk.transform(np.where(began, 0.0, plain))
        self.steps += 1
        shaped[began] = 0.0
        self._start(began)
        ended = np.flatnonzero(over)
        infos = {**infos, "plain_reward": plain, "_plain_reward": np.ones_like(over)}
        if ended.size:
            self.risk.finish(ended)
            if self.mode is AutoresetMode.SAME_STEP:
                self._keep_final(infos, ended)
                self._start(ended)
        self._over = over
        return self._join(observations), shaped, over, np.zeros_like(over), infos

    def _start(self, rows: Any) -> None:
        self.risk.start(rows)
        self.steps[rows] = 0
        if self.risk.sampler:
            task: Any = self.env.unwrapped
            self.risk.importance[rows] = task.importance[rows]
            self.risk.conditions[rows] = task.conditions[rows]

    def _plain_rewards(
        self, rewards: Floats, infos: dict[str, Any], over: NDArray[np.bool_]
    ) -> Floats:
        if self.reward_key is None:
            return np.asarray(rewards, float)
        plain = np.array(infos[self.reward_key], float)
        if self.mode is AutoresetMode.SAME_STEP and over.any():  # infos are those of the reset
            plain[over] = infos["final_info"][self.reward_key][over]
        return plain

    def _keep_final(self, infos: dict[str, Any], ended: NDArray[np.intp]) -> None:
        final, extra = infos["final_obs"].copy(), self._extra(ended)
        for row, more in zip(ended.tolist(), extra, strict=True):
            final[row] = np.concatenate([final[row], more]).astype(np.float32)
        infos["final_obs"] = final
        if "final_info" in infos:
            infos["final_info"] = {
                **infos["final_info"],
                "plain_reward": infos["plain_reward"],
                "_plain_reward": infos["_final_info"],
            }

    def _join(self, observations: Any) -> NDArray[np.float32]:
        return np.concatenate([observations, self._extra(slice(None))], axis=1, dtype=np.float32)


def cvar(returns: Any, alpha: float) -> float:
    """Return the mean of the worst share ``alpha`` of ``returns`` (n,).

    The last return that only partly belongs to the share counts in part, so that the estimate is
    continuous in alpha and equals the largest value of Rockafellar and Uryasev's objective.

    Raises:
        InputError: There are no returns, or ``alpha`` is not in (0, 1].
    """
    ordered = np.sort(np.asarray(returns, float))
    if not len(ordered) or not 0 < alpha <= 1:
        raise InputError(f"CVaR needs returns and alpha in (0, 1], got {len(ordered)} and {alpha}")
    share = alpha * len(ordered)
    weights = np.clip(share - np.arange(len(ordered)), 0.0, 1.0)
    return float(weights @ ordered / share)
