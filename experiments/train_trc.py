"""Train a planner by tiny recursive control, or a plain network, on cases of generate-lqr.

Writes best.pt and last.pt, training_stats.json, training_curves.png, metrics.jsonl and TensorBoard
events. After an interruption the same command with the same output= continues.
"""

from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console

from steerlab.agents.trc.data import PLANS_FILE, load_dataset
from steerlab.agents.trc.model import SIZES, MlpPlanner, Planner, TinyRecursiveControl
from steerlab.agents.trc.train import TrainConfig, load_planner, train
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.errors import unknown_name
from steerlab.options import option
from steerlab.seeds import initial_weights
from steerlab.study import latest_result, study


@dataclass(frozen=True)
class Config(TrainConfig):
    """Options of train-trc."""

    data: str = option("", "cases made by generate-lqr; '' = those of the last one")
    model: str = option("medium", "small, medium, large or mlp")
    latent_dim: int | None = option(None, "width of the latent vector; null = that of the size")
    hidden_dim: int | None = option(None, "width inside the blocks, or of the mlp's layers")
    num_blocks: int | None = option(None, "blocks in each pass")
    num_outer_cycles: int | None = option(None, "corrections of the plan")
    num_inner_cycles: int | None = option(None, "passes through the blocks for each correction")
    two_level: bool = option(False, "a slow and a fast latent vector instead of one")
    dropout: float = option(0.0, "dropout in the blocks")
    safe_steps: bool = option(
        True, "shorten corrections so that no plan costs more than the one before"
    )
    init: str = option("", "checkpoint to start from, for fine-tuning (model options are its own)")


def make_planner(config: Config, problem: TrackingProblem) -> Planner:
    """Return the new network that ``config`` names, with weights from its seed."""
    if config.init:
        return load_planner(config.init)
    with initial_weights(config.seed):
        if config.model == "mlp":
            return MlpPlanner(problem, config.hidden_dim or 128)
        if config.model not in SIZES:
            raise unknown_name("model", config.model, (*SIZES, "mlp"))
        names = ("latent_dim", "hidden_dim", "num_blocks", "num_outer_cycles", "num_inner_cycles")
        given = {name: getattr(config, name) for name in names}
        changes = {name: value for name, value in given.items() if value is not None}
        return TinyRecursiveControl.of_size(
            config.model,
            problem,
            two_level=config.two_level,
            dropout=config.dropout,
            safe_steps=config.safe_steps,
            **changes,
        )


def run(config: Config, output: Path) -> Planner:
    """Train and write the results to ``output``."""
    train_set, valid_set = load_dataset(config.data or latest_result("generate_lqr", PLANS_FILE))
    model = make_planner(config, train_set.problem)
    console = Console()
    console.print(
        f"{config.model}: {model.parameter_count():,} weights, "
        f"{len(train_set):,} + {len(valid_set):,} cases",
        highlight=False,
    )
    options = TrainConfig(**{f.name: getattr(config, f.name) for f in fields(TrainConfig)})
    result = train(model, train_set, valid_set, options, output)
    console.print(
        f"best epoch {result.best_epoch + 1} of {len(result.history)}, validation loss "
        f"{result.history[result.best_epoch]['valid/loss']:.3g}, {result.seconds:.0f} s"
        f"\n[bold]{output / 'best.pt'}[/]",
        highlight=False,
    )
    return model


main = study(Config, run, resumes=True)

if __name__ == "__main__":
    main()
