"""Planners for TinyPhysics on models that were identified from drives.

Each is a function of an :class:`~steerlab.agents.tinyphysics.model.Observation`, like a policy.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steerlab.agents.classical.pid import PID
from steerlab.agents.tinyphysics.model import AHEAD, Observation
from steerlab.envs.tinyphysics.dynamics import MAX_CHANGE, STEER_LIMIT, STEPS, FuturePlan, State
from steerlab.envs.tinyphysics.reward import LATACCEL_WEIGHT
from steerlab.surrogates.plants.base import CONTEXT
from steerlab.surrogates.plants.moments import MomentPlant, Transitions
from steerlab.surrogates.segments.data import DT
from steerlab.types import Floats

TRACKING = LATACCEL_WEIGHT * 100 / STEPS  # cost of 1 (m/s^2)^2 of error in a step
JERK = 100 / (STEPS - 1) / DT**2  # cost of 1 (m/s^2)^2 of change in a step
KNOTS = 4  # between which the changes of a sampled plan are straight


class LinearModel:
    """The next lateral acceleration as a linear function of recent steps, one for each speed.

    Least squares on the plant's own predictions, so that no noise blurs the labels. Each of the
    speeds is a knot; a step counts for the two knots around its speed.

    Attributes:
        lataccel: (K, 3) weights of c[t-1], c[t-2], c[t-3].
        steer: (K, 8) weights of u[t], u[t-1], ..., in m/s^2.
        roll: (K,) weight of roll_lataccel[t].
    """

    SPEEDS = np.array([3.0, 8.0, 15.0, 23.0, 31.0])  # m/s, of the knots
    LATACCELS, STEERS = 3, 8
    CALM = 2.5  # m/s^2, up to which a step is taken for linear

    def __init__(self, drives: Transitions) -> None:
        first = drives.steer.shape[1] - drives.mean.shape[1]
        time = np.arange(first, drives.steer.shape[1])
        columns = [drives.lataccel[:, time - 1 - k] for k in range(self.LATACCELS)]
        columns += [drives.steer[:, time - k] for k in range(self.STEERS)]
        columns += [drives.road[:, time, 0], np.ones_like(drives.mean)]
        inputs = np.stack(columns, axis=-1).reshape(-1, len(columns)).astype(np.float64)
        labels, speed = drives.mean.ravel(), drives.road[:, time, 1].ravel()
        calm = (np.abs(inputs[:, 0]) < self.CALM) & (np.abs(labels) < self.CALM)
        inputs, labels, shares = inputs[calm], labels[calm], self.shares(speed[calm])
        fits = []
        for share in shares.T:
            root = np.sqrt(share)[:, None]
            ridge = 1e-3 * np.eye(inputs.shape[1])
            stacked = np.concatenate([inputs * root, ridge])
            wanted = np.concatenate([labels * root[:, 0], np.zeros(len(ridge))])
            fits.append(np.linalg.lstsq(stacked, wanted)[0])
        weights = np.stack(fits)
        self.lataccel, self.steer, rest = np.split(
            weights, [self.LATACCELS, self.LATACCELS + self.STEERS], axis=1
        )
        self.roll = rest[:, 0]

    @classmethod
    def shares(cls, speed: NDArray[np.floating]) -> Floats:
        """Return how much each knot counts at speeds (N,): (N, K), rows sum to 1."""
        hats = np.eye(len(cls.SPEEDS))
        return np.stack([np.interp(speed, cls.SPEEDS, hat) for hat in hats], axis=-1)

    def response(
        self, knot: int, history: Floats, steer: Floats, roll: Floats, offset: float = 0.0
    ) -> Floats:
        """Return the lateral accelerations (H,) that follow.

        Args:
            knot: Which of the speeds.
            history: (3 + 7,) c[t-1] to c[t-3], then u[t-1] to u[t-7].
            steer: (H,) from step t on.
            roll: (H,) from step t on, m/s^2.
            offset: What is added in every step, m/s^2.
        """
        past_c = list(history[: self.LATACCELS])
        past_u = list(history[self.LATACCELS :])
        found = []
        for u, bank in zip(steer, roll, strict=True):
            past_u = [u, *past_u[: self.STEERS - 1]]
            now = self.lataccel[knot] @ past_c + self.steer[knot] @ past_u
            now += self.roll[knot] * bank + offset
            past_c = [now, *past_c[:-1]]
            found.append(now)
        return np.array(found)


class FeedforwardPID(PID):
    """comma's PID, weaker, on top of the steer that holds the target to come on this road.

    Args:
        model: Identified from drives.
        lead: Steps ahead of the target that is steered for.
        share: Of comma's gains.
    """

    def __init__(self, model: LinearModel, lead: int = 3, share: float = 0.7) -> None:
        super().__init__(*(share * gain for gain in (0.195, 0.100, -0.053)))
        self.lead = lead
        self._model = model

    def update(
        self, target: Floats, current: Floats, state: State, plan: FuturePlan
    ) -> NDArray[Any]:
        """Return the steer (N,)."""
        model = self._model
        shares = model.shares(state.v_ego)
        remembered = 1 - shares @ model.lataccel.sum(axis=1)
        ahead = plan.lataccel[:, self.lead - 1], plan.roll_lataccel[:, self.lead - 1]
        driven = remembered * ahead[0] - shares @ model.roll * ahead[1]
        held = driven / (shares @ model.steer.sum(axis=1))
        return held + super().update(target, current, state, plan)


class PreviewRegulator:
    """Preview LQR over 50 steps: the first step of the plan that is best for the linear model.

    The plan minimises the official cost plus ``damping`` times the square of the changes of the
    steer. It is linear in everything that is seen, so it is solved once, for each speed. What the
    model missed lately is taken to go on.

    Args:
        model: Identified from drives.
        damping: Cost of a change of the steer by 1 in one step.
    """

    REMEMBERED = 12  # steps over which the model's error is averaged

    def __init__(self, model: LinearModel, damping: float = 50.0) -> None:
        self.model = model
        gains = [self._gains(knot, damping) for knot in range(len(model.SPEEDS))]
        self._gain = np.stack(gains)

    def __call__(self, seen: Observation) -> Tensor:
        """Return the steer (N,)."""
        model = self.model
        road, past_u, past_c = (part.numpy().astype(np.float64) for part in seen)
        shares = model.shares(road[:, 0, 2])
        offset = self._offset(shares, past_c, past_u, road[:, 0, 1])
        past_c = past_c[:, : -model.LATACCELS - 1 : -1]
        past_u = past_u[:, : -model.STEERS : -1]
        known = [past_c, past_u, road[..., 0], road[..., 1], offset[:, None]]
        steer = np.einsum(
            "nk,ks,ns->n", shares, self._gain, np.concatenate(known, axis=1), optimize=True
        )
        return torch.from_numpy(steer.clip(-STEER_LIMIT, STEER_LIMIT)).float()

    def _offset(self, shares: Floats, past_c: Floats, past_u: Floats, roll: Floats) -> Floats:
        """Return by how much the car was to the right of the model lately (N,), m/s^2 a step."""
        model, errors = self.model, []
        for back in range(1, self.REMEMBERED + 1):
            end = past_c.shape[1] - back
            before = past_c[:, end - model.LATACCELS : end][:, ::-1]
            steers = past_u[:, end - model.STEERS + 1 : end + 1][:, ::-1]
            predicted = (shares @ model.lataccel * before).sum(1)
            predicted += (shares @ model.steer * steers).sum(1) + shares @ model.roll * roll
            errors.append(past_c[:, end] - predicted)
        return np.mean(errors, axis=0)

    def _gains(self, knot: int, damping: float) -> Floats:
        """Return what each known number adds to the steer now."""
        model = self.model
        past = model.LATACCELS + model.STEERS - 1
        zero, none = np.zeros(past), np.zeros(AHEAD)
        of_steer = np.stack([model.response(knot, zero, u, none) for u in np.eye(AHEAD)], axis=1)
        of_past = np.stack([model.response(knot, h, none, none) for h in np.eye(past)], axis=1)
        of_roll = np.stack([model.response(knot, zero, none, r) for r in np.eye(AHEAD)], axis=1)
        of_offset = model.response(knot, zero, none, none, 1.0)[:, None]
        free = np.concatenate([of_past, np.zeros((AHEAD, AHEAD)), of_roll, of_offset], axis=1)
        target = np.zeros_like(free)
        target[:, past : past + AHEAD] = np.eye(AHEAD)
        before_c, before_u = np.zeros_like(free), np.zeros_like(free)
        before_c[0, 0] = before_u[0, model.LATACCELS] = 1.0
        difference = np.eye(AHEAD) - np.eye(AHEAD, k=-1)
        sides = [
            (np.sqrt(TRACKING) * of_steer, np.sqrt(TRACKING) * (target - free)),
            (
                np.sqrt(JERK) * difference @ of_steer,
                np.sqrt(JERK) * (before_c - difference @ free),
            ),
            (np.sqrt(damping) * difference, np.sqrt(damping) * before_u),
        ]
        left, right = (np.concatenate(part) for part in zip(*sides, strict=True))
        return np.linalg.lstsq(left, right)[0][0]


class SampledPlans:
    """Sampling MPC: path integral over expected-value rollouts of the model, around a policy.

    A policy drives the model ``horizon`` steps without noise. Plans around its steers are driven the same
    way, and the one that is applied is their mean, weighted by
    the exponential of minus their cost. It knows nothing of the noise to come.

    Args:
        plant: The model.
        policy: Where plans are drawn around, itself a function of an observation.
        candidates: Plans a decision, an even number.
        horizon: Steps of a plan.
        iterations: Times that plans are drawn, each time around the last mean.
        deviation: Of the steers that are drawn.
        temperature: Of the weights, in units of cost.
        seed: Of the draws.
    """

    def __init__(
        self,
        plant: MomentPlant,
        policy: Callable[[Observation], Tensor],
        candidates: int = 64,
        horizon: int = 16,
        iterations: int = 2,
        deviation: float = 0.02,
        temperature: float = 0.02,
        seed: int = 0,
    ) -> None:
        self.plant, self.policy = plant, policy
        self.candidates, self.horizon, self.iterations = candidates, horizon, iterations
        self.deviation, self.temperature = deviation, temperature
        self.rng = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def __call__(self, seen: Observation) -> Tensor:
        """Return the steer (N,)."""
        plan = self._prior(seen)
        rows, deviation = len(plan), self.deviation
        for _ in range(self.iterations):
            draws = self._draws(rows, deviation)
            plans = (plan[:, None] + draws).clamp(-STEER_LIMIT, STEER_LIMIT)
            cost = plan_cost(self.plant, seen, plans)
            weight = torch.softmax(-cost / self.temperature, dim=1)
            plan = (weight[..., None] * plans).sum(dim=1)
            deviation = deviation / 2
        return plan[:, 0]

    def _draws(self, rows: int, deviation: float) -> Tensor:
        """Return changes (N, C, H) of a plan: smooth, since rough ones cost jerk; each with its opposite."""
        shape = (rows, self.candidates // 2, KNOTS)
        knots = deviation * torch.randn(shape, generator=self.rng)
        smooth = nn.functional.interpolate(knots, self.horizon, mode="linear", align_corners=True)
        return torch.cat([smooth, -smooth], dim=1)

    def _prior(self, seen: Observation) -> Tensor:
        """Return the steers (N, H) of the policy in the model without noise."""
        steers = []
        for step in range(self.horizon):
            # Beyond the plan the road goes on as it ends.
            road = seen.road[:, [min(step + k, AHEAD - 1) for k in range(AHEAD)]]
            now = self.policy(Observation(road, seen.steer, seen.lataccel))
            steers.append(now)
            seen = _step(self.plant, seen, now, step)
        return torch.stack(steers, dim=1)


class GradientPlans:
    """Trajectory optimisation: gradient steps on a policy's plan through the model.

    Args:
        plant: The model.
        policy: Whose plan is improved.
        horizon: Steps of a plan.
        iterations: Gradient steps.
        rate: Step size of Adam.
    """

    def __init__(
        self,
        plant: MomentPlant,
        policy: Callable[[Observation], Tensor],
        horizon: int = 12,
        iterations: int = 8,
        rate: float = 0.01,
    ) -> None:
        self._prior = SampledPlans(plant, policy, horizon=horizon)._prior
        self.plant, self.iterations, self.rate = plant, iterations, rate

    def __call__(self, seen: Observation) -> Tensor:
        """Return the steer (N,)."""
        with torch.no_grad():
            plan = self._prior(seen)
        with torch.enable_grad():
            plan = plan.clone().requires_grad_(True)
            optimizer = torch.optim.Adam([plan], self.rate)
            for _ in range(self.iterations):
                cost = plan_cost(self.plant, seen, plan[:, None]).sum()
                optimizer.zero_grad()
                cost.backward()
                optimizer.step()
        return plan.detach()[:, 0].clamp(-STEER_LIMIT, STEER_LIMIT)


def plan_cost(plant: MomentPlant, seen: Observation, plans: Tensor) -> Tensor:
    """Return the expected-value cost (N, C) of plans (N, C, H) of steers from where the car is."""
    rows, candidates, horizon = plans.shape
    many = Observation(*(part.repeat_interleave(candidates, dim=0) for part in seen))
    steers = plans.reshape(rows * candidates, horizon)
    total = torch.zeros(rows * candidates)
    for step in range(horizon):
        before = many.lataccel[:, -1]
        many = _step(plant, many, steers[:, step], step)
        now = many.lataccel[:, -1]
        error = many.road[:, step, 0] - now
        total = total + TRACKING * error.square() + JERK * (now - before).square()
    return total.view(rows, candidates)


def _step(plant: MomentPlant, seen: Observation, steer: Tensor, step: int) -> Observation:
    """Return the histories after a steer; the road stays, so ``step`` says where the car is in it."""
    past = torch.cat([seen.steer[:, 1:], steer[:, None]], dim=1)
    # The road behind is not seen; the model knows its present well enough from what is now.
    road = seen.road[:, max(step - CONTEXT + 1, 0) : step + 1, 1:]
    first = road[:, :1].expand(-1, CONTEXT - road.shape[1], -1)
    mean, _ = plant(past, seen.lataccel, torch.cat([first, road], dim=1))
    before = seen.lataccel[:, -1]
    now = before + (mean - before).clamp(-MAX_CHANGE, MAX_CHANGE)
    return Observation(seen.road, past, torch.cat([seen.lataccel[:, 1:], now[:, None]], dim=1))
