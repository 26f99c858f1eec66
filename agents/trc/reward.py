"""Rewards of whole plans: the task's own, or the user's, for fine-tuning."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steerlab.agents.trc.model import Planner
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.errors import InputError

#: Gets the problem, states (B, T+1, 2), controls (B, T, 1) and targets (B, 2) as float32 tensors;
#: returns what each plan is worth (B,).
Reward = Callable[[TrackingProblem, Tensor, Tensor, Tensor], Tensor]


def task_reward(
    problem: TrackingProblem, states: Tensor, controls: Tensor, targets: Tensor
) -> Tensor:
    """Return -J (B,), the return of an episode of the task."""
    costs: Tensor = problem.stage_costs(states, controls, targets)
    return -costs.sum(dim=1)


@dataclass(frozen=True)
class PlanReward:
    """What plans of a problem are worth, in units of what the plans of the first network are.

    Attributes:
        planner: Its plant simulates the plans.
        reward: See :data:`Reward`.
        name: What the messages call it.
    """

    planner: Planner
    reward: Reward
    name: str = "reward"

    def __call__(self, initial: Tensor, targets: Tensor, plans: Tensor) -> Tensor:
        """Return the rewards (B,) of ``plans`` (B, T) from ``initial`` to ``targets`` (B, 2).

        Raises:
            InputError: The reward fails, or returns anything else than B finite numbers.
        """
        plant = self.planner.plant
        states = plant.errors(plant.case(initial, targets, self.left(initial)), plans)
        states = states + targets[:, None]
        try:
            found = self.reward(self.planner.problem, states, plans[..., None], targets)
        except Exception as error:  # whatever the user's code does
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.name} fails on states {tuple(states.shape)}, controls "
                f"{(*plans.shape, 1)}, targets {tuple(targets.shape)} "
                f"({type(error).__name__}: {reason})"
            ) from error
        if not isinstance(found, Tensor) or found.shape != (len(plans),):
            shape = tuple(found.shape) if hasattr(found, "shape") else type(found).__name__
            raise InputError(
                f"{self.name} returns {shape}; it must return a tensor ({len(plans)},), one number "
                "a plan"
            )
        if not torch.isfinite(found).all():
            raise InputError(f"{self.name} returns numbers that are not finite")
        return found.to(plans.dtype)

    def left(self, initial: Tensor) -> Tensor:
        """Return the steps that are left at the start (B,): all of them."""
        return torch.full_like(initial[:, 0], self.planner.problem.steps)

    def plans(self, initial: Tensor, targets: Tensor) -> list[Tensor]:
        """Return every iterate (B, T) of the planner."""
        left = self.left(initial)
        return self.planner.iterates(self.planner.plant.case(initial, targets, left), left)

    @torch.no_grad()
    def of_planner(self, initial: Tensor, targets: Tensor) -> Tensor:
        """Return the rewards (B,) of the planner's own plans."""
        self.planner.eval()
        return self(initial, targets, self.plans(initial, targets)[-1])


def check_differentiable(reward: PlanReward, initial: Tensor, targets: Tensor) -> None:
    """Refuse a reward through which no gradient comes back to the plans.

    Raises:
        InputError: None does.
    """
    plans = torch.zeros(len(initial), reward.planner.problem.steps, device=initial.device)
    found = reward(initial, targets, plans.requires_grad_())
    if not found.requires_grad:
        raise InputError(
            f"no gradient comes back through {reward.name}: write it with torch operations on its "
            "arguments, or use method=ppo"
        )
