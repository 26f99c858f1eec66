"""Analytic policy gradient: back-propagation of the official cost through a differentiable plant.

Rows drive on from update to update. Each update drives ``horizon`` steps, sums the cost, and takes
its gradient with respect to the policy's weights through plant, policy and noise; then the past is
cut off. The last ``lookahead`` actions of a horizon are constants for the gradient, since the part
of their consequences that lies inside the horizon would teach them to be greedy.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steerlab.agents.checkpoint import load_checkpoint
from steerlab.agents.tinyphysics.model import PreviewPolicy
from steerlab.agents.tinyphysics.rollout import Roads, SoftRollout
from steerlab.agents.training_loop import TrainingLoop, moving_average
from steerlab.envs.tinyphysics.dynamics import STEPS
from steerlab.errors import InputError
from steerlab.options import option
from steerlab.seeds import generator_seed
from steerlab.surrogates.plants.soft import DifferentiablePlant

KIND = "policy by gradient"  # of the checkpoints
#: Gets the policy that would be kept; returns scalars that are logged.
Metrics = Callable[[PreviewPolicy], dict[str, float]]


@dataclass(frozen=True)
class GradientConfig:
    """Options of :func:`improve`."""

    updates: int = option(2000, "gradient steps")
    rows: int = option(256, "rollouts in parallel")
    horizon: int = option(50, "control steps in each gradient step; divides 400")
    lookahead: int = option(5, "last actions of a horizon that get no gradient")
    learning_rate: float = option(
        1.5e-3, "learning rate of Adam at the start; falls to zero along a cosine"
    )
    gradient_clip: float = option(1.0, "largest norm of the gradient")
    ema_decay: float = option(0.99, "decay of the averaged weights that are kept")
    varied: float = option(
        0.5, "share of routes that are mirrored, or made sharper or gentler, at random"
    )
    noise: bool = option(True, "draw the plant's noise; false = its mean lateral acceleration")
    evaluate_every: int = option(200, "updates between evaluations")
    seed: int = option(0, "seed of the weights, the routes and the noise")


def improve(
    policy: PreviewPolicy,
    plant: DifferentiablePlant,
    roads: Roads,
    config: GradientConfig,
    output: str | Path,
    metrics: Metrics = lambda policy: {},
    part: int = 0,
) -> PreviewPolicy:
    """Train a policy in a plant and return the average of its last weights.

    Writes ``last.pt``, ``metrics.jsonl`` and TensorBoard events into ``output``. If ``last.pt``
    exists, training goes on after it and ends with the numbers of an uninterrupted run.

    Args:
        policy: Where training starts.
        plant: Differentiable: mean and deviation of the next lateral acceleration.
        roads: The routes to train on.
        config: Options.
        output: Folder of the results.
        metrics: Called every ``evaluate_every`` updates and at the end.
        part: Tells trainings of one run apart: each has other routes and noise.

    Raises:
        InputError: An option is out of range.
    """
    check(config)
    plant.requires_grad_(False)
    rng = torch.Generator().manual_seed(generator_seed("training", config.seed, part))
    drives = _Drives(plant, roads, config, rng)
    average = moving_average(policy, config.ema_decay)
    kept: PreviewPolicy = average.module  # type: ignore[assignment]
    optimizer = torch.optim.Adam(policy.parameters(), config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.updates)
    parts: dict[str, Any] = {"policy": policy, "average": average, "drives": drives}
    parts |= {"optimizer": optimizer, "schedule": schedule}
    loop = TrainingLoop(output, KIND, config.updates, parts, asdict(config), unit="update")
    with loop:
        recent: list[Tensor] = []
        for update in loop:
            cost = drives.cost(policy)
            optimizer.zero_grad(set_to_none=True)
            (cost / 100).backward()
            nn.utils.clip_grad_norm_(policy.parameters(), config.gradient_clip)
            optimizer.step()
            schedule.step()
            average.update_parameters(policy)
            drives.next_chunk(update)
            recent.append(cost.detach())
            loop.advance(1)
            if (update + 1) % config.evaluate_every == 0 or update + 1 == config.updates:
                scalars = {"train/total_cost": float(torch.stack(recent).mean())}
                recent = []
                scalars |= {f"valid/{k}": v for k, v in metrics(kept).items()}
                loop.record(update, scalars)
                loop.save(update)
                shown = {k.rpartition("/")[2]: f"{v:.2f}" for k, v in scalars.items()}
                loop.advance(0, shown)
    return kept


def read_policy(path: str | Path) -> dict[str, Tensor]:
    """Return the averaged weights in a checkpoint of :func:`improve`.

    Raises:
        InputError: It is no such checkpoint.
    """
    weights = load_checkpoint(path, KIND)["average"]
    first = "module."
    return {k.removeprefix(first): v for k, v in weights.items() if k.startswith(first)}


class _Drives:
    """The rows that drive on, an eighth of them (400 steps over the horizon) at each part of a route."""

    def __init__(
        self, plant: DifferentiablePlant, roads: Roads, config: GradientConfig, rng: torch.Generator
    ) -> None:
        self.config, self.routes, self.rng = config, roads, rng
        self.parts = STEPS // config.horizon
        self.rollout = SoftRollout(plant, self._choose(config.rows))
        self._part = torch.arange(config.rows) % self.parts

    def cost(self, policy: PreviewPolicy) -> Tensor:
        """Drive a horizon; return what a whole route would cost at that rate."""
        config, rollout = self.config, self.rollout
        noise = torch.randn(config.horizon, config.rows, generator=self.rng) * config.noise
        learned = config.horizon - config.lookahead
        total = torch.stack(list(rollout.drive(policy, noise, learned))).sum(dim=0)
        return total.mean() * self.parts

    def next_chunk(self, update: int) -> None:
        """Cut the gradient, and give new routes to the rows that are at the end of theirs."""
        self.rollout.detach()
        (rows,) = torch.nonzero(self._part == (update + 1) % self.parts, as_tuple=True)
        self.rollout.reset(rows, self._choose(len(rows)))

    def _choose(self, count: int) -> Roads:
        chosen = torch.randint(len(self.routes.road), (count,), generator=self.rng)
        return varied(self.routes[chosen], self.config.varied, self.rng)

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the next update depends on."""
        return self.rollout.state_dict() | {"rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self.rng.set_state(state["rng"].cpu())
        self.rollout.load_state_dict(state)


def varied(roads: Roads, share: float, rng: torch.Generator) -> Roads:
    """Return routes, a share of them mirrored, sharper or gentler, banked otherwise, at random."""

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=rng)

    count = len(roads.road)
    mirror = 2.0 * torch.randint(0, 2, (count, 1), generator=rng) - 1
    factors = torch.ones(count, 4)
    factors[:, :1], factors[:, 1:2] = mirror * between(0.7, 1.3), mirror * between(0.7, 1.3)
    chosen = torch.rand(count, 1, generator=rng) < share
    factors = torch.where(chosen, factors, 1.0)
    return Roads(roads.road * factors[:, None], (roads.steer * factors[:, :1]).clamp(-2.0, 2.0))


def check(config: GradientConfig) -> None:
    """Check the options.

    Raises:
        InputError: One is out of range.
    """
    if config.horizon < 1 or STEPS % config.horizon:
        raise InputError(f"horizon={config.horizon} must divide the {STEPS} steps of a route")
    if not 0 <= config.lookahead < config.horizon:
        raise InputError(f"lookahead={config.lookahead} must be in [0, horizon)")
    for name in ("updates", "rows", "evaluate_every"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}={getattr(config, name)} must be at least 1")
    if config.learning_rate <= 0:
        raise InputError(f"learning_rate={config.learning_rate} must be positive")
    if not 0 <= config.varied <= 1:
        raise InputError(f"varied={config.varied} is a share; it must be in [0, 1]")
