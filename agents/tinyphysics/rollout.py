"""Rollouts that gradients pass: a policy in a plant of two moments, many rows at a time.

A row drives its route from step 100 to step 500 as the official simulator does, with the next
lateral acceleration drawn from a normal density. Its noise is an input, so that the sum of the
costs is a differentiable function of the policy's weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steerlab.agents.tinyphysics.model import AHEAD, Ahead, Observation, PreviewPolicy, warmup_steer
from steerlab.envs.tinyphysics.dynamics import MAX_CHANGE, STEPS
from steerlab.envs.tinyphysics.reward import LATACCEL_WEIGHT
from steerlab.surrogates.plants.base import CONTEXT
from steerlab.surrogates.plants.soft import DifferentiablePlant
from steerlab.surrogates.segments.data import CONTROL_START, COST_END, DT, MIN_ROWS, Segments


@dataclass(frozen=True)
class Roads:
    """N routes as tensors.

    Attributes:
        road: (N, 550, 4): target, roll_lataccel (m/s^2), v_ego (m/s), a_ego (m/s^2).
        steer: (N, 20) logged steers of the steps 80 to 99.
    """

    road: Tensor
    steer: Tensor

    @classmethod
    def of(cls, segments: Segments) -> "Roads":
        """Return segments as tensors."""
        rows = min(segments.target.shape[1], MIN_ROWS + 1)
        columns = (segments.target, segments.roll_lataccel, segments.v_ego, segments.a_ego)
        road = np.stack([c[:, :rows] for c in columns], axis=-1).astype(np.float32)
        road = np.pad(road, ((0, 0), (0, MIN_ROWS + 1 - rows), (0, 0)), mode="edge")
        steer = segments.steer[:, CONTROL_START - CONTEXT :].clip(-2.0, 2.0).astype(np.float32)
        return cls(torch.from_numpy(road), torch.from_numpy(steer))

    def typical(self, seed: int) -> Observation:
        """Return what a policy would see that follows its target roughly: every tenth step."""
        rng = torch.Generator().manual_seed(seed)
        parts = []
        for time in range(CONTROL_START, COST_END, 10):
            past = self.road[:, time - CONTEXT : time]
            near = 0.05 * torch.randn(past.shape[:2], generator=rng)
            steer = warmup_steer(past[..., 0] + near, past[..., 1])
            parts.append((self.road[:, time : time + AHEAD], steer, past[..., 0] + near))
        return Observation(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def __getitem__(self, index: Tensor) -> "Roads":
        return Roads(self.road[index], self.steer[index])


class SoftRollout:
    """N rows, each at its own step of its own route.

    Attributes:
        time: (N,) the step that the next action decides.
        roads: The route of each row.
        lataccel: (N, 20) the last lateral accelerations, m/s^2.
    """

    def __init__(self, plant: DifferentiablePlant, roads: Roads) -> None:
        self.plant = plant
        rows = len(roads.road)
        self.roads = Roads(roads.road.clone(), roads.steer.clone())
        self.time = torch.full((rows,), CONTROL_START)
        self.lataccel = roads.road.new_zeros(rows, CONTEXT)
        self._applied = roads.road.new_zeros(rows, CONTEXT)  # as the plant sees them
        self._noted = roads.road.new_zeros(rows, CONTEXT)  # as the policy remembers them
        self._rows = torch.arange(rows)[:, None]
        self.reset(torch.arange(rows), roads)

    def reset(self, rows: Tensor, roads: Roads) -> None:
        """Put rows (n,) at the first step that is controlled of other routes."""
        self.roads.road[rows], self.roads.steer[rows] = roads.road, roads.steer
        past = roads.road[:, CONTROL_START - CONTEXT : CONTROL_START]
        self.lataccel[rows] = past[..., 0]
        self._applied[rows] = roads.steer
        self._noted[rows] = warmup_steer(past[..., 0], past[..., 1])
        self.time[rows] = CONTROL_START

    def detach(self) -> None:
        """Cut the gradient: what came before is given."""
        self.lataccel, self._applied, self._noted = (
            x.detach().clone() for x in (self.lataccel, self._applied, self._noted)
        )

    def drive(
        self, policy: PreviewPolicy, noise: Tensor, learned: int | None = None
    ) -> Iterator[Tensor]:
        """Drive one step for each row of the noise, yielding what it costs each row (N,).

        The costs of the 400 steps of a route sum to the official total_cost.

        Args:
            policy: What steers.
            noise: (T, N), standard normal.
            learned: From this step on the steers are constants for the gradient; None for none.
        """
        steps = len(noise)
        window = self.time[:, None] + torch.arange(-CONTEXT + 1, steps + AHEAD - 1)
        roads = self.roads.road[self._rows, window].transpose(0, 1)  # (CONTEXT - 1 + T + 49, N, 4)
        future = roads[CONTEXT - 1 :].unfold(0, AHEAD, 1).movedim(-1, -2)  # (T, N, 50, 4)
        past = roads[: CONTEXT - 1 + steps, :, 1:].unfold(0, CONTEXT, 1).movedim(-1, -2)
        # Unbound, since the gradient of an index writes zeros for all the other steps.
        ahead = zip(*(part.unbind() for part in policy.look_ahead(future)), strict=True)
        behind = self.plant.look_behind(past)
        for step, now in enumerate(ahead):
            steer = policy.act(Ahead(*now), self._noted, self.lataccel)
            if learned is not None and step >= learned:
                steer = steer.detach()
            yield self._step(steer, behind[step], future[step, :, 0, 0], noise[step])

    def _step(self, steer: Tensor, behind: Tensor, target: Tensor, noise: Tensor) -> Tensor:
        self._applied = torch.cat([self._applied[:, 1:], steer[:, None]], dim=1)
        self._noted = torch.cat([self._noted[:, 1:], steer[:, None]], dim=1)
        before = self.lataccel[:, -1]
        mean, deviation = self.plant.predict(behind, self._applied, self.lataccel)
        change = (mean + deviation * noise - before).clamp(-MAX_CHANGE, MAX_CHANGE)
        now = before + change
        self.lataccel = torch.cat([self.lataccel[:, 1:], now[:, None]], dim=1)
        tracking = 100 / STEPS * (target - now).square()
        jerk = 100 / (STEPS - 1) * (change / DT).square() * (self.time != CONTROL_START)
        self.time = self.time + 1
        return LATACCEL_WEIGHT * tracking + jerk

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on."""
        return {
            "road": self.roads.road,
            "logged": self.roads.steer,
            "time": self.time,
            "lataccel": self.lataccel,
            "applied": self._applied,
            "noted": self._noted,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self.roads = Roads(state["road"], state["logged"])
        self.time, self.lataccel = state["time"], state["lataccel"]
        self._applied, self._noted = state["applied"], state["noted"]

    @property
    def over(self) -> Tensor:
        """Which rows (N,) have come to the end of their route."""
        return self.time == COST_END
