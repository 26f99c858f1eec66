"""What a planning network sees of the plant: costs, simulated errors, gradients, safe steps.

One case is a start, a target and the number of steps that are left, m <= T. Plans always have T
inputs; those from m on are zero and cost nothing.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from steerlab.agents.classical.lqr import linearize
from steerlab.agents.classical.qp import condense
from steerlab.envs.tracking.problem import TrackingProblem


class Case(NamedTuple):
    """A batch of cases, as :meth:`Plant.case` makes it.

    Attributes:
        initial: (B, 2).
        targets: (B, 2).
        weights: Weights of the state errors (B, T+1, 2): those of the running cost before step m,
            those of the terminal cost at it, and none beyond.
        mask: 1 for the inputs that count, else 0 (B, T).
        free: Errors (B, T+1, 2) under zero inputs, for a linear plant.
    """

    initial: Tensor
    targets: Tensor
    weights: Tensor
    mask: Tensor
    free: Tensor

    def repeat(self, times: int) -> "Case":
        """Return the cases ``times`` over, one batch after the other."""
        return Case(*(part.repeat(times, *(1,) * (part.dim() - 1)) for part in self))


@dataclass(frozen=True)
class View:
    """What :meth:`Plant.look` sees of a plan: state errors (B, T+1, 2) and dJ/du (B, T)."""

    error: Tensor
    gradient: Tensor


class Plant(nn.Module):
    """A :class:`TrackingProblem` for networks; see :func:`make_plant`."""

    forced: Tensor
    state_weights: Tensor
    whitening: Tensor

    def __init__(self, problem: TrackingProblem) -> None:
        super().__init__()
        self.problem = problem
        condensed = condense(problem)
        values, vectors = np.linalg.eigh(condensed.hessian)
        for name, array in (
            ("free", condensed.free),
            ("forced", condensed.forced.reshape(-1, problem.steps)),
            ("state_weights", problem.state_weights),
            # H^(-1/2): in these coordinates the cost (of the linearised plant) is a sphere.
            ("whitening", vectors @ np.diag(values**-0.5) @ vectors.T),
        ):
            tensor = torch.tensor(array, dtype=torch.float32)
            self.register_buffer(name, tensor, persistent=False)

    def case(self, initial: Tensor, targets: Tensor, remaining: Tensor) -> Case:
        """Return the cases of ``initial`` and ``targets`` (B, 2) with ``remaining`` steps (B,)."""
        steps = torch.arange(self.problem.steps + 1, device=initial.device, dtype=initial.dtype)
        left = remaining[:, None] - steps
        running = (left > 0.5).to(initial.dtype)
        final = (left.abs() < 0.5).to(initial.dtype)
        weights = (running + self.problem.terminal_factor * final)[..., None] * self.state_weights
        return Case(initial, targets, weights, running[:, :-1], self._free(initial, targets))

    def _free(self, initial: Tensor, targets: Tensor) -> Tensor:
        return torch.zeros_like(initial)

    def errors(self, case: Case, controls: Tensor) -> Tensor:
        """Return the state errors (B, T+1, 2) under ``controls`` (B, T)."""
        states: Tensor = _Rollout.apply(controls, case.initial, self.problem)
        return states - case.targets[:, None]

    def cost(self, case: Case, controls: Tensor) -> Tensor:
        """Return J (B,) of ``controls`` (B, T)."""
        error = self.errors(case, controls)
        running = self.problem.input_weight * (controls * controls * case.mask).sum(1)
        return (case.weights * error * error).sum((1, 2)) + running

    def quadratic(self, case: Case, change: Tensor) -> Tensor:
        """Return d' H d / 2 (B,) of a change of plan (B, T), with H of the linearised plant.

        For a linear plant this is the exact excess cost where no bound is active.
        """
        error = self._forced_errors(change)
        square = (case.weights * error * error).sum((1, 2))
        return square + self.problem.input_weight * (change * change).sum(1)

    def look(self, case: Case, controls: Tensor) -> View:
        """Simulate ``controls`` (B, T). For a nonlinear plant nothing flows back through this."""
        with torch.enable_grad():
            leaf = controls.detach().requires_grad_()
            error = self.errors(case, leaf)
            running = self.problem.input_weight * (leaf * leaf * case.mask).sum()
            cost = (case.weights * error * error).sum() + running
            (gradient,) = torch.autograd.grad(cost, leaf)
        return View(error.detach(), gradient * case.mask)

    def newton_step(self, view: View) -> Tensor:
        """Return the change of plan (B, T) that a linear plant without bounds would ask for.

        It is exact with all steps left; with fewer, the Hessian is another.
        """
        return -(view.gradient @ self.whitening) @ self.whitening

    def safe_step(self, case: Case, view: View, controls: Tensor, move: Tensor) -> Tensor:
        """Return the part (B,), 0 to 1, of ``move`` (B, T) after which the cost is not higher.

        A nonlinear plant is tried at a few lengths, and the cheapest is taken.
        """
        lengths = torch.tensor([0.0, 0.25, 0.5, 1.0], device=move.device, dtype=move.dtype)
        with torch.no_grad():
            tries = controls + lengths[:, None, None] * move
            costs = self.cost(case.repeat(4), tries.flatten(0, 1)).view(4, -1)
        return lengths[costs.argmin(0)]

    def _forced_errors(self, controls: Tensor) -> Tensor:
        return (controls @ self.forced.T).unflatten(1, (-1, 2))


class LinearPlant(Plant):
    """A linear plant: everything is a matrix product, and the safe step is exact."""

    free: Tensor

    def _free(self, initial: Tensor, targets: Tensor) -> Tensor:
        states = (initial @ self.free.flatten(0, 1).T).unflatten(1, (-1, 2))
        return states - targets[:, None]

    def errors(self, case: Case, controls: Tensor) -> Tensor:
        """See :meth:`Plant.errors`."""
        return case.free + self._forced_errors(controls)

    def look(self, case: Case, controls: Tensor) -> View:
        """Simulate ``controls`` (B, T), differentiably."""
        error = self.errors(case, controls)
        pull = (case.weights * error).flatten(1) @ self.forced
        return View(error, 2 * (pull + self.problem.input_weight * controls) * case.mask)

    def safe_step(self, case: Case, view: View, controls: Tensor, move: Tensor) -> Tensor:
        """Return the part of ``move`` that minimises the cost, which is a parabola along it."""
        slope = (view.gradient * move).sum(1)
        # The floor is for moves of nothing: an addend as small can be lost in a runtime.
        return (-slope / (2 * self.quadratic(case, move)).clamp(min=1e-6)).clamp(0, 1)


class _Rollout(torch.autograd.Function):
    """The states (B, T+1, 2) under controls (B, T), differentiable in the controls.

    In numpy and with the adjoint recursion: a loop over small tensors would spend most of its time
    between the operations, four times as long for the oscillator.
    """

    @staticmethod
    def forward(ctx: Any, controls: Tensor, initial: Tensor, problem: TrackingProblem) -> Tensor:
        moves = controls.detach().double().cpu().numpy()[..., None]
        states = problem.rollout(initial.detach().double().cpu().numpy(), moves)
        ctx.problem, ctx.moves, ctx.states = problem, moves, states
        return torch.as_tensor(states).to(controls)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        A, B = linearize(ctx.problem.step, ctx.states[:, :-1], ctx.moves)
        pull = gradient.detach().double().cpu().numpy()
        adjoint, result = np.zeros_like(pull[:, 0]), np.empty(ctx.moves.shape[:2])
        for k in reversed(range(ctx.problem.steps)):
            adjoint = adjoint + pull[:, k + 1]
            result[:, k] = (adjoint * B[:, k, :, 0]).sum(1)
            adjoint = np.einsum("bij,bi->bj", A[:, k], adjoint)
        return torch.as_tensor(result).to(gradient), None, None


def make_plant(problem: TrackingProblem) -> Plant:
    """Return the plant of ``problem``; it has no weights and is not saved with a model."""
    return LinearPlant(problem) if problem.linear else Plant(problem)
