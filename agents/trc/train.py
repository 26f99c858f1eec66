"""Training of planning networks, and their files."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steerlab.agents.checkpoint import fitting, load_checkpoint
from steerlab.agents.supervised import KIND, Batch, FitConfig, FitResult, fit
from steerlab.agents.trc.acceptance import check_accepts
from steerlab.agents.trc.data import PlanData
from steerlab.agents.trc.model import MlpPlanner, Planner, TinyRecursiveControl, TrcConfig
from steerlab.envs.tracking.problems import dump_problem, parse_problem
from steerlab.errors import InputError, unknown_name
from steerlab.options import option

LOSSES = ("cost", "hessian", "mse")


@dataclass(frozen=True)
class TrainConfig(FitConfig):
    """Options of :func:`train`."""

    batch_size: int = option(128, "examples in each gradient step")
    loss: str = option("cost", "cost (true cost, through the plant), hessian (du'Hdu/2) or mse")
    supervision: float = option(0.3, "weight of every plan before the last; 0 = only the last")
    tails: float | None = option(
        None,
        "share of the examples that start in the middle of a plan; null = 0.3, with model=mlp 0",
    )


def train(
    model: Planner,
    train_set: PlanData,
    valid_set: PlanData,
    config: TrainConfig | None = None,
    output: str | Path = "runs/trc",
    **options: Any,
) -> FitResult:
    """Train a planner with the shared loop; see :func:`steerlab.agents.supervised.fit`.

    Args:
        model: New or trained network; fine-tuning is training a trained one again.
        train_set: Training cases.
        valid_set: Validation cases, always from their start.
        config: Options, or give them by name: ``train(..., epochs=20, loss="mse")``.
        output: Folder of checkpoints, logs and curves; an interrupted training goes on there.
        options: Fields of :class:`TrainConfig`, in place of ``config``.

    Raises:
        InputError: An option is unknown or out of range, or the model solves another problem.
    """
    unknown = set(options) - {f.name for f in fields(TrainConfig)}
    if unknown:
        raise unknown_name("training option", min(unknown), [f.name for f in fields(TrainConfig)])
    if config and options:
        raise InputError("give the training options either as config or by name, not both")
    config = config or TrainConfig(**options)
    check_accepts(model.problem, train_set.problem, "the model")
    describe = {"problem": dump_problem(model.problem), "model": model.describe()}
    return fit(model, make_loss(config), train_set, valid_set, config, output, describe=describe)


def make_loss(config: TrainConfig) -> Callable[[nn.Module, Batch, torch.Generator], Batch]:
    """Return the loss of :func:`fit`: a mean over the batch, a weighted sum over the plans.

    - ``cost``: (J(u) - J) / (J + c), J being what the label costs and c 1/8 of the mean of J. It
      needs no label but for this scale: the gradient is that of the true cost.
    - ``hessian``: du' H du / 2 on the same scale; the excess cost where no bound is active.
    - ``mse``: mean square of the difference to the label.

    In training, a part of the examples starts in the middle of its plan: the tail of an optimal
    plan is an optimal plan for the steps that are left (Bellman's principle).
    """
    if config.loss not in LOSSES:
        raise unknown_name("loss", config.loss, LOSSES)
    if config.tails is not None and not 0 <= config.tails <= 1:
        raise InputError(f"tails={config.tails} must be in [0, 1]")
    if config.supervision < 0:
        raise InputError(f"supervision={config.supervision} must not be negative")

    def loss(model: nn.Module, batch: Batch, rng: torch.Generator) -> Batch:
        assert isinstance(model, Planner)
        tails = _tails(config, model) if model.training else 0.0
        initial, label, scale, remaining = _examples(batch, tails, rng)
        case = model.plant.case(initial, batch["targets"], remaining)
        plans = torch.stack(model.iterates(case, remaining))
        if config.loss == "mse":
            parts = (plans - label).square().mean(dim=(1, 2)).unbind()
        else:
            rows, flat = case.repeat(len(plans)), plans.flatten(0, 1)
            if config.loss == "hessian":
                excess = model.plant.quadratic(rows, flat - label.repeat(len(plans), 1))
            else:
                excess = model.plant.cost(rows, flat) - scale.repeat(len(plans))
            relative = excess.unflatten(0, (len(plans), -1)) / (
                scale + batch["to_go"][:, 0].mean() / 8
            )
            parts = relative.mean(1).unbind()
        values = {f"plan_{k}": part for k, part in enumerate(parts)}
        total = parts[-1] + config.supervision * sum(parts[:-1], torch.zeros_like(parts[-1]))
        return {"loss": total if model.training else parts[-1], **values}

    return loss


def _tails(config: TrainConfig, model: Planner) -> float:
    """Return the part of tails: a plain network does not get the number of steps left, so none."""
    if config.tails is not None:
        return config.tails
    return 0.0 if isinstance(model, MlpPlanner) else 0.3


def _examples(
    batch: Batch, tails: float, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return initial states (B, 2), labels (B, T), costs (B,) and remaining steps (B,)."""
    controls = batch["controls"]
    count, steps = controls.shape
    device = controls.device
    begin = torch.zeros(count, dtype=torch.long, device=device)
    if tails:
        chosen = torch.rand(count, generator=rng, device=device) < tails
        begin = torch.randint(steps, (count,), generator=rng, device=device) * chosen
    rows = torch.arange(count, device=device)
    places = torch.arange(steps, device=device) + begin[:, None]
    label = controls.gather(1, places.clamp(max=steps - 1)) * (places < steps)
    remaining = (steps - begin).to(controls.dtype)
    return batch["states"][rows, begin], label, batch["to_go"][rows, begin], remaining


def load_planner(path: str | Path, device: torch.device | str = "cpu") -> Planner:
    """Return the network of a checkpoint, whatever its size and problem, ready to plan.

    Raises:
        InputError: There is no such file, or it is not a planner's checkpoint.
    """
    state = load_checkpoint(path, KIND, device)
    described = state.get("describe", {})
    shape = dict(described.get("model", {}))
    kind = shape.pop("kind", None)
    if kind not in ("trc", "mlp"):
        raise InputError(f"{str(path)!r} is not the checkpoint of a planner; train one first")
    with fitting(path, "a planner"):
        problem = parse_problem(described["problem"])
        model: Planner = (
            TinyRecursiveControl(problem, TrcConfig(**shape))
            if kind == "trc"
            else MlpPlanner(problem, **shape)
        )
        model.load_state_dict(state["model"])
    return model.to(device).eval()
