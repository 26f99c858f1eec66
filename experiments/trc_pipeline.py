"""Run tiny recursive control from nothing: data, training, evaluation, comparison, ONNX export.

Makes training cases (seed 42) and test cases (seed 123), trains a planner and two plain networks (one of
19,000 weights, one of as many as the planner), evaluates and compares them all, and exports the planner.
Existing results are not made again: after a stop the same command with the same output= continues.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule

from steerlab.agents.trc.data import PLANS_FILE
from steerlab.agents.trc.model import MlpPlanner
from steerlab.envs.tracking.problems import ProblemOptions
from steerlab.experiments import compare_trc, evaluate_trc, generate_lqr, train_trc
from steerlab.exporters.planner import export_planner
from steerlab.files import writable_folder
from steerlab.options import option
from steerlab.study import study


@dataclass(frozen=True)
class Config(ProblemOptions):
    """Options of trc-pipeline."""

    num_samples: int = option(10_000, "number of training cases")
    num_tests: int = option(1000, "number of test cases")
    epochs: int = option(100, "passes over the training cases")
    model: str = option("medium", "small, medium or large")
    labels: str = option("optimal", "optimal, lqr (infinite horizon, as published) or finite_lqr")
    loss: str = option("cost", "cost (true cost, through the plant), hessian (du'Hdu/2) or mse")
    batch_size: int = option(128, "cases in each gradient step")
    baselines: bool = option(
        True, "also train two plain networks, of 19,000 and of equally many weights"
    )
    latency_seconds: float = option(0.5, "time spent on each latency, s; 0 = measure none")
    seed: int = option(0, "seed of the weights and of the order of training")
    device: str = option("auto", "auto, cpu or cuda")


def run(config: Config, output: Path) -> dict[str, Any]:
    """Do it all in ``output``; return the comparison."""
    console = Console()
    base = {f.name: getattr(config, f.name) for f in fields(ProblemOptions)}
    files = {}
    for part, count, seed in (("train", config.num_samples, 42), ("test", config.num_tests, 123)):
        files[part] = output / part / PLANS_FILE
        labels = config.labels if part == "train" else "optimal"
        if not files[part].exists():
            console.print(Rule(f"{part} cases"))
            making = generate_lqr.Config(**base, num_samples=count, seed=seed, labels=labels)
            generate_lqr.run(making, writable_folder(output / part))

    training = train_trc.Config(
        data=str(files["train"]),
        model=config.model,
        epochs=config.epochs,
        batch_size=config.batch_size,
        loss=config.loss,
        seed=config.seed,
        device=config.device,
    )
    console.print(Rule(f"training {config.model}"))
    model = train_trc.run(training, writable_folder(output / config.model))
    checkpoints = [str(output / config.model / "best.pt")]
    for count in (19_000, model.parameter_count()) if config.baselines else ():
        name = f"mlp-{round(count, -3) // 1000}k"
        console.print(Rule(f"training {name}"))
        width = MlpPlanner.with_parameters(model.problem, count).hidden_dim
        plain = replace(training, model="mlp", hidden_dim=width)
        train_trc.run(plain, writable_folder(output / name))
        checkpoints.append(str(output / name / "best.pt"))

    console.print(Rule("evaluation"))
    evaluate_trc.run(
        evaluate_trc.Config(
            checkpoint=checkpoints[0], test_data=str(files["test"]), device=config.device
        ),
        writable_folder(output / "evaluation"),
    )
    console.print(Rule("comparison"))
    results = compare_trc.run(
        compare_trc.Config(
            checkpoints=checkpoints,
            test_data=str(files["test"]),
            latency_seconds=config.latency_seconds,
        ),
        writable_folder(output / "comparison"),
    )
    if model.problem.linear:
        difference = export_planner(model, output / f"{config.model}.onnx")
        console.print(
            f"[bold]{output / f'{config.model}.onnx'}[/] differs from torch by at most "
            f"{difference:.1e}",
            highlight=False,
        )
    return results


main = study(Config, run, resumes=True)

if __name__ == "__main__":
    main()
