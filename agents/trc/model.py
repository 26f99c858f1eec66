"""The networks: tiny recursive control, and a plain one to compare it with."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from steerlab.agents.trc.plant import Case, View, make_plant
from steerlab.envs.tracking.double_integrator import DoubleIntegrator
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.errors import InputError, unknown_name
from steerlab.types import Floats


@dataclass(frozen=True)
class TrcConfig:
    """The shape of a :class:`TinyRecursiveControl`."""

    latent_dim: int = 160
    hidden_dim: int = 320
    num_blocks: int = 2
    num_outer_cycles: int = 3  # corrections of the plan
    num_inner_cycles: int = 2  # passes through the blocks for each correction
    two_level: bool = False  # a slow and a fast latent instead of one
    dropout: float = 0.0
    safe_steps: bool = True  # a correction is shortened so that it never raises the cost


#: Near 105 K, 530 K and 2.6 M weights for the double integrator.
SIZES = {
    "small": TrcConfig(latent_dim=64, hidden_dim=160),
    "medium": TrcConfig(latent_dim=160, hidden_dim=336),
    "large": TrcConfig(latent_dim=384, hidden_dim=704),
}


class Planner(nn.Module):
    """A network that maps a start, a target and the steps that are left to a plan."""

    def __init__(self, problem: TrackingProblem) -> None:
        super().__init__()
        self.problem = problem
        self.plant = make_plant(problem)

    def describe(self) -> dict[str, Any]:
        """Return plain values from which :func:`load_planner` makes the same network."""
        raise NotImplementedError

    def iterates(self, case: Case, remaining: Tensor) -> list[Tensor]:
        """Return every plan (B, T), the last being the answer."""
        raise NotImplementedError

    def forward(self, initial: Tensor, targets: Tensor, remaining: Tensor) -> Tensor:
        """Return the plan (B, T, 1) within the bounds.

        Args:
            initial: (B, 2).
            targets: (B, 2).
            remaining: Steps that are left, 1 to T (B,), as floating point numbers.
        """
        case = self.plant.case(initial, targets, remaining)
        return self.iterates(case, remaining)[-1][..., None]

    @torch.no_grad()
    def plan(
        self, initial: Any, targets: Any, remaining: Any = None, *, all_iterates: bool = False
    ) -> Floats:
        """Plan from numpy arrays to numpy arrays, in one batch and without dropout.

        Args:
            initial: (B, 2).
            targets: (B, 2).
            remaining: Steps that are left, a number or (B,); all of them by default.
            all_iterates: Return every plan (K+1, B, T, 1) instead of the last (B, T, 1).
        """
        self.eval()
        device = self.plant.forced.device
        x, goal = (
            torch.as_tensor(np.asarray(a), dtype=torch.float32, device=device)
            for a in (initial, targets)
        )
        steps = self.problem.steps if remaining is None else remaining
        left = torch.as_tensor(np.array(steps), dtype=torch.float32, device=device)
        left = left.expand(len(x))
        plans = self.iterates(self.plant.case(x, goal, left), left)
        chosen = torch.stack(plans) if all_iterates else plans[-1]
        # Float32 rounds a bound such as 0.1 upwards; the plan is to keep it in float64 as well.
        clipped: Floats = self.problem.clip(chosen[..., None].double().cpu().numpy())
        return clipped

    def parameter_count(self) -> int:
        """Return the number of weights."""
        return sum(p.numel() for p in self.parameters())

    def _inputs(self, case: Case, remaining: Tensor) -> Tensor:
        """Return what the encoder gets: start, target (unless it is fixed) and remaining time."""
        problem = self.problem
        parts = [case.initial / (problem.spread or 1.0)]
        if problem.target_spread:
            parts.append(case.targets / problem.target_spread)
        return torch.cat([*parts, remaining[:, None] / problem.steps - 0.5], 1)

    def _input_size(self) -> int:
        return 5 if self.problem.target_spread else 3

    def _bounded(self, controls: Tensor) -> Tensor:
        limit = self.problem.limit
        if self.training and torch.is_grad_enabled():
            bounded: Tensor = _InwardClamp.apply(controls, limit)
            return bounded
        return controls.clamp(-limit, limit)


class TinyRecursiveControl(Planner):
    """Tiny recursive control.

    An encoder makes a latent vector of the case, and a decoder makes a first plan of it. Then
    ``num_outer_cycles`` times the plan is simulated on the task's own dynamics; plan, errors and
    the gradient of the cost go into the latent vector, which passes ``num_inner_cycles`` times
    through the same blocks; what is decoded from it is added to the plan. All cycles share their
    weights. With ``safe_steps`` the addition is shortened to where the cost is least (exactly, for
    a linear plant), so that no iterate costs more than the one before.

    Plans and corrections are decoded in well-conditioned coordinates w, u = H^(-1/2) w.
    The Hessian H has a condition number of 12,000 on the double integrator, so that in plain
    coordinates errors of the same size differ as much in cost.

    The idea is that of TinyRecursiveControl (axj307) after the tiny recursive model of
    Jolicoeur-Martineau, "Less is more" (2025), arXiv 2510.04871. Where that has attention over a
    single element, whose queries and keys have no gradient, these blocks are gated feed-forward
    layers (Shazeer, "GLU variants improve transformer", 2020), so that every weight learns.
    """

    def __init__(self, problem: TrackingProblem, config: TrcConfig | None = None) -> None:
        super().__init__(problem)
        config = config or SIZES["medium"]
        _check(config)
        self.config = config
        d, h, steps = config.latent_dim, config.hidden_dim, problem.steps
        self.encoder = _mlp(self._input_size(), h, d)
        self.first = nn.Sequential(nn.LayerNorm(d), *_mlp(d, h, steps))
        self.embed = _mlp(4 * steps, h, d)
        self.inject = nn.LayerNorm(d)
        self.blocks = nn.ModuleList(_Block(d, h, config.dropout) for _ in range(config.num_blocks))
        last = nn.Linear(d, steps)
        self.correct = nn.Sequential(nn.LayerNorm(d), last)
        if config.two_level:
            self.slow_start = nn.Parameter(0.02 * torch.randn(d))
            self.fast_start = nn.Parameter(0.02 * torch.randn(d))
        with torch.no_grad():  # corrections start small
            last.weight *= 0.1
            last.bias.zero_()

    @classmethod
    def of_size(
        cls, name: str = "medium", problem: TrackingProblem | None = None, **changes: Any
    ) -> Self:
        """Return a new network by the name of its size, with ``changes`` of :class:`TrcConfig`.

        Raises:
            InputError: The size is unknown, or a value is out of range.
        """
        if name not in SIZES:
            raise unknown_name("model size", name, SIZES)
        unknown = set(changes) - set(TrcConfig.__dataclass_fields__)
        if unknown:
            raise unknown_name("model option", min(unknown), TrcConfig.__dataclass_fields__)
        return cls(problem or DoubleIntegrator(), replace(SIZES[name], **changes))

    def describe(self) -> dict[str, Any]:
        """See :meth:`Planner.describe`."""
        return {"kind": "trc", **asdict(self.config)}

    def iterates(self, case: Case, remaining: Tensor) -> list[Tensor]:
        """Return all ``num_outer_cycles`` + 1 plans (B, T), the last being the answer."""
        start = self.encoder(self._inputs(case, remaining))
        plans = [self._bounded(self._decode(self.first(start))) * case.mask]
        slow, fast = self._first_latents(start)
        for _ in range(self.config.num_outer_cycles):
            plan = plans[-1]
            view = self.plant.look(case, plan)
            seen = self.inject(start + self.embed(self._feedback(case, view, plan)))
            for _ in range(self.config.num_inner_cycles):
                fast = self._think(fast + slow + seen if self.config.two_level else fast + seen)
            if self.config.two_level:
                slow = self._think(slow + fast)
            correction = self._decode(self.correct(slow if self.config.two_level else fast))
            move = (self._bounded(plan + correction) - plan) * case.mask
            if self.config.safe_steps:
                move = self.plant.safe_step(case, view, plan, move)[:, None] * move
            plans.append(plan + move)
        return plans

    def _first_latents(self, start: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.two_level:
            return self.slow_start.expand_as(start), self.fast_start.expand_as(start)
        return start, torch.zeros_like(start)

    def _think(self, latent: Tensor) -> Tensor:
        for block in self.blocks:
            latent = block(latent)
        return latent

    def _decode(self, output: Tensor) -> Tensor:
        return self.problem.limit * output @ self.plant.whitening

    def _feedback(self, case: Case, view: View, plan: Tensor) -> Tensor:
        """Return plan, errors and gradient (B, 4T), each of the order of one."""
        counted = (case.weights > 0).to(plan.dtype)[:, 1:] * view.error[:, 1:]
        return torch.cat(
            [
                plan / self.problem.limit,
                counted.flatten(1) / (self.problem.spread or 1.0),
                view.gradient @ self.plant.whitening,
            ],
            1,
        )


class MlpPlanner(Planner):
    """A plain network, with the coordinates of :class:`TinyRecursiveControl` but without recursion and feedback.

    For a linear plant it has a head start that TRC has not: its output is added to the optimum
    without bounds, which is linear in start and target and has no weights to learn.

    Args:
        problem: What is to be planned.
        hidden_dim: Width of the two hidden layers.
    """

    def __init__(self, problem: TrackingProblem, hidden_dim: int = 128) -> None:
        super().__init__(problem)
        if hidden_dim < 1:
            raise InputError(f"hidden_dim={hidden_dim} must be at least 1")
        self.hidden_dim = hidden_dim
        self.layers = nn.Sequential(
            nn.Linear(self._input_size(), hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, problem.steps),
        )

    @classmethod
    def with_parameters(cls, problem: TrackingProblem, count: int) -> Self:
        """Return the network whose number of weights is closest to ``count``."""
        inputs, steps = (5 if problem.target_spread else 3), problem.steps
        # h^2 + (inputs + steps + 2) h + steps = count
        linear = inputs + steps + 2
        width = (np.sqrt(linear**2 + 4 * (count - steps)) - linear) / 2
        return cls(problem, max(round(float(width)), 1))

    def describe(self) -> dict[str, Any]:
        """See :meth:`Planner.describe`."""
        return {"kind": "mlp", "hidden_dim": self.hidden_dim}

    def iterates(self, case: Case, remaining: Tensor) -> list[Tensor]:
        """Return the only plan (B, T)."""
        output = self.layers(self._inputs(case, remaining))
        plan = self.problem.limit * output @ self.plant.whitening
        if self.problem.linear:
            nothing = torch.zeros_like(plan)
            plan = plan + self.plant.newton_step(self.plant.look(case, nothing))
        return [self._bounded(plan) * case.mask]


class _Block(nn.Module):
    """A gated feed-forward layer around which the latent passes unchanged."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.open = nn.Linear(width, 2 * hidden)
        self.close = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():  # the latent hardly changes at first, however often it passes
            self.close.weight *= 0.5
            self.close.bias.zero_()

    def forward(self, latent: Tensor) -> Tensor:
        value, gate = self.open(self.norm(latent)).chunk(2, -1)
        return latent + self.dropout(self.close(value * nn.functional.silu(gate)))


class _InwardClamp(torch.autograd.Function):
    """Clamp whose gradient vanishes only where descent would lead further beyond the bound.

    With the usual clamp an output beyond its bound could never return.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.limit = limit
        return value.clamp(-limit, limit)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors
        (gradient,) = gradients
        outwards = ((value > ctx.limit) & (gradient < 0)) | ((value < -ctx.limit) & (gradient > 0))
        return gradient.masked_fill(outwards, 0.0), None


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


def _check(config: TrcConfig) -> None:
    for name in (
        "latent_dim",
        "hidden_dim",
        "num_blocks",
        "num_outer_cycles",
        "num_inner_cycles",
    ):
        if getattr(config, name) < 1:
            raise InputError(f"{name}={getattr(config, name)} must be at least 1")
    if not 0 <= config.dropout < 1:
        raise InputError(f"dropout={config.dropout} must be in [0, 1)")
