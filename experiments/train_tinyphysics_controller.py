"""Train a TinyPhysics controller, by the gradient of the official cost or otherwise, and put it on trial.

recipe=gradient  Rounds of three steps. Drive: routes are driven in the plant (comma's), first by many
                 random controllers, later by the policy itself. Model: a small network learns mean and
                 deviation of what the plant predicts. Improve: the policy drives hundreds of routes side
                 by side in that network, and the gradient of the cost passes through all of it.
recipe=cloning   A planner drives, then the policy, and the planner says what it would have done (DAgger).
recipe=cma       CMA-ES on the weights, by the cost in the plant itself; needs the extra train.
recipe=ppo       PPO on TinyPhysics-v0.

All train the same policy and write the same files. Another run of this study is where a recipe begins
with start=, for instance cma as a last polish of gradient, or ppo after cloning.

Routes are used once: the first train_count to learn from, the next select_count to choose the policy
that is kept, and report_count from report_first on to measure it, with the official noise
and with salted noise. The result is one file for comma's repository, and ONNX. Interrupt it at any
time: the same command with the same output= goes on.

Examples:
  steerlab train-tinyphysics-controller
  steerlab train-tinyphysics-controller plant=tinyphysics.onnx segments=segments.zip
  steerlab train-tinyphysics-controller recipe=cma start=runs/train_tinyphysics_controller/...
  steerlab evaluate-tinyphysics controller=runs/.../controller.py plant=comma segments=comma
"""

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap

from steerlab.agents.classical.comma import controller_factory
from steerlab.agents.run_log import read_log
from steerlab.agents.tinyphysics.cloning import CloningConfig, train_by_cloning
from steerlab.agents.tinyphysics.evolution import EvolutionConfig, train_by_evolution
from steerlab.agents.tinyphysics.model import PolicyShape
from steerlab.agents.tinyphysics.ppo import PPOConfig, train_by_ppo
from steerlab.agents.tinyphysics.recipe import (
    Bench,
    Trained,
    load_policy,
    processor_time,
    read_seconds,
    save_policy,
)
from steerlab.agents.tinyphysics.rounds import RoundsConfig, train_by_gradient
from steerlab.agents.tinyphysics.train import check
from steerlab.envs.tinyphysics.render import plot_rollout
from steerlab.envs.tinyphysics.rollout import Evaluation, evaluate
from steerlab.errors import InputError, unknown_name
from steerlab.exporters.tinyphysics import export_policy, write_controller
from steerlab.files import atomic_path, write_json
from steerlab.options import option
from steerlab.readers.text import read_json
from steerlab.seeds import generator_seed
from steerlab.study import study
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.segments.data import Segments
from steerlab.surrogates.segments.synthetic import find_segments, synthetic_segments
from steerlab.types import Floats

POLICY, EFFORT, RESULT = "policy.pt", "effort.json", "result.json"
#: What a run took, in its result: processor seconds, steps of the plant, steps of a learned model.
WORK = ("seconds", "plant_steps", "model_steps")


@dataclass(frozen=True)
class Config(RoundsConfig):
    """Options of the study."""

    recipe: str = option("gradient", "gradient, cloning, cma or ppo")
    start: str = option("", "output folder of another run to begin with; '' = random weights")
    plant: str = option("comma", "default, comma, or an ONNX file with comma's signature")
    segments: str = option(
        "comma", "comma, a folder or zip of comma CSVs, default, or synthetic: as many as needed"
    )
    train_count: int = option(350, "routes to learn from, the first ones")
    select_count: int = option(50, "routes to choose the policy on, the next ones")
    report_first: int = option(400, "number of the first route of the report")
    report_count: int = option(100, "routes of the report; 0 = none")
    salts: list[str] = option(["honest", "second", "third"], "other noises of the report")
    hidden: int = option(128, "units of the policy's two layers")
    preview: int = option(50, "steps of the future that the policy sees, at most 50")
    history: int = option(20, "steps of its past that the policy sees, 2 to 20")
    delta: bool = option(True, "the policy answers with a change of the steer, else with the steer")
    processes: int = option(0, "processes that drive in the plant; 0 = one a core")
    cloning: CloningConfig = field(default_factory=CloningConfig)
    cma: EvolutionConfig = field(default_factory=EvolutionConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)


#: What each recipe does in the output folder.
RECIPES: dict[str, Callable[[Bench, Config, Path], Trained]] = {
    "gradient": train_by_gradient,
    "cloning": lambda bench, c, out: train_by_cloning(bench, c.cloning, out, c),
    "cma": lambda bench, c, out: train_by_evolution(bench, c.cma, out),
    "ppo": lambda bench, c, out: train_by_ppo(bench, c.ppo, out),
}


def run(config: Config, output: Path) -> dict[str, Any]:
    """Train, choose, export and report."""
    _check(config)
    train, select, report = _routes(config)
    load_plant(config.plant)  # fails here, not after an hour
    bench = _bench(config, train, select)
    start = time.perf_counter()
    with processor_time(output / EFFORT):
        trained = RECIPES[config.recipe](bench, config, output)
        costs = [bench.selection_costs(p) for p in trained.policies]
    chosen = int(np.argmin([c.mean() for c in costs]))
    policy = trained.policies[chosen]
    about = f"Trained by steerlab train-tinyphysics-controller, recipe {config.recipe}."
    write_controller(policy, output / "controller.py", about)
    export_policy(policy, output / "policy.onnx")
    save_policy(output / POLICY, policy)
    if config.recipe == "gradient":
        plot_curves(output, config.rounds)
    hardware = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes in this run on {hardware}")
    result: dict[str, Any] = {
        "recipe": config.recipe,
        "selection": [float(c.mean()) for c in costs],
        "round": chosen + 1,
        "selection_costs": dict(zip(select.names, costs[chosen].tolist(), strict=True)),
        "seconds": read_seconds(output / EFFORT),
        "plant_steps": trained.plant_steps,
        "model_steps": trained.model_steps,
    }
    if config.start:  # what it began with took its time, too
        before = read_json(Path(config.start) / RESULT, dict)
        result |= {name: result[name] + before[name] for name in WORK}
    if report is not None:
        result |= {"report": put_on_trial(config, output, report)}
    write_json(output / RESULT, result)
    print(f"controller: {output / 'controller.py'}\npolicy:     {output / 'policy.onnx'}")
    return result


def _bench(config: Config, train: Segments, select: Segments) -> Bench:
    """Return where the recipe trains.

    Raises:
        InputError: ``start`` is no run, or its policy has another shape.
    """
    shape = PolicyShape(config.hidden, config.preview, config.history, config.delta)
    start = load_policy(Path(config.start) / POLICY) if config.start else None
    if start is not None and start.shape != shape:
        raise InputError(f"start={config.start!r} has a policy of {start.shape}; ask for the same")
    processes = config.processes or os.cpu_count() or 1
    return Bench(config.plant, train, select, processes, shape, config.seed, start)


def put_on_trial(config: Config, output: Path, report: Segments) -> dict[str, Any]:
    """Drive the routes of the report with the exported file and with pid; print, draw, return.

    pid drives with the official noise alone: it is the reference of one ratio.
    """
    controllers = {"pid": "pid", "controller.py": str(output / "controller.py")}
    figures: dict[str, Any] = {}
    table = Table(
        *("controller", "noise", "lataccel", "jerk", "total", "95 % interval", "median", "p95"),
        title=f"{len(report)} routes from {report.names[0]} on",
        header_style="bold",
    )
    drawn: dict[str, Evaluation] = {}
    for noise in ("official", *config.salts):
        for name, path in controllers.items():
            if name == "pid" and noise != "official":
                continue
            found = evaluate(
                controller_factory(path),
                report,
                config.plant,
                "exact",
                seeds=noise,
                processes=config.processes or os.cpu_count() or 1,
            )
            drawn.setdefault(name, found)
            figures[f"{name}, {noise}"] = entry = summary(found.costs._asdict())
            low, high = entry["interval"]
            table.add_row(
                name,
                noise,
                *(f"{entry[k]:.3f}" for k in ("lataccel_cost", "jerk_cost", "total_cost")),
                f"{low:.2f} - {high:.2f}",
                *(f"{entry[k]:.2f}" for k in ("median", "p95")),
            )
    ours, pid = (figures[f"{name}, official"] for name in ("controller.py", "pid"))
    table.caption = (
        f"to pid's, official noise: mean {ours['total_cost'] / pid['total_cost']:.3f}, "
        f"median {ours['median'] / pid['median']:.3f}"
    )
    Console().print(table)
    plot_drives(output / "drives.png", drawn["controller.py"])
    return figures


def summary(costs: Mapping[str, Floats]) -> dict[str, Any]:
    """Return means of the costs (S,), and of the total cost median, 95th percentile and interval.

    The interval is that of the mean: 95 %, bootstrap over routes.
    """
    total = costs["total_cost"]
    drawn = bootstrap(
        (total,),
        np.mean,
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(generator_seed("evaluation")),
    )
    return {
        **{name: float(values.mean()) for name, values in costs.items()},
        "interval": [float(x) for x in drawn.confidence_interval],
        "median": float(np.median(total)),
        "p95": float(np.percentile(total, 95)),
    }


def plot_curves(output: Path, rounds: int) -> None:
    """Draw the cost over the gradient steps of all rounds."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    labels = {
        "train/total_cost": "training, model",
        "valid/soft_cost": "selection, model",
        "valid/total_cost": "selection, plant",
    }
    for key, label in labels.items():
        before, x, y = 0, [], []
        for number in range(rounds):
            records = read_log(output / f"round_{number + 1}" / "policy")
            x += [before + r["step"] for r in records]
            y += [r[key] for r in records]
            before = x[-1]
        axes.plot(x, y, marker=".", label=label)
    axes.set(xlabel="gradient steps", ylabel="total_cost")
    axes.legend()
    axes.grid(alpha=0.3)
    with atomic_path(output / "training_curves.png") as temporary:
        figure.savefig(temporary, dpi=120)


def plot_drives(path: Path, found: Evaluation) -> None:
    """Draw the best, the middle and the worst route of an evaluation."""
    order = np.argsort(found.costs.total_cost)
    figure = Figure(figsize=(10, 11), layout="constrained")
    places = (0, len(order) // 2, len(order) - 1)
    parts: Any = figure.subfigures(3, 1)
    for part, place in zip(parts, places, strict=True):
        i = int(order[place])
        plot_rollout(part, found.names[i], found.target[i], found.lataccel[i], found.steer[i])
        part.axes[0].set_title(
            f"route {found.names[i]}: total cost {found.costs.total_cost[i]:.1f}"
        )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)


def find_routes(source: str, count: int, seed: int) -> Segments:
    """Return the segments of a source; ``count`` drawn ones if it is "synthetic"."""
    if source == "synthetic":
        return synthetic_segments(count, generator_seed("data", seed))
    return find_segments(source)


def _routes(config: Config) -> tuple[Segments, Segments, Segments | None]:
    """Return the routes of training, selection and report; no route is in two of them."""
    ends = (config.train_count + config.select_count, config.report_first + config.report_count)
    segments = find_routes(config.segments, max(ends), config.seed)
    if max(ends) > len(segments):
        raise InputError(
            f"segments={config.segments!r} has {len(segments)} routes, and train_count, "
            f"select_count, report_first and report_count ask for {max(ends)}; ask for fewer"
        )
    if config.report_count and config.report_first < ends[0]:
        raise InputError(
            f"report_first={config.report_first} lies among the {ends[0]} routes of training and "
            "selection; a report on them would be worth nothing"
        )
    train, select = segments[: config.train_count], segments[config.train_count : ends[0]]
    report = segments[config.report_first : ends[1]] if config.report_count else None
    return train, select, report


def _check(config: Config) -> None:
    if config.recipe not in RECIPES:
        raise unknown_name("recipe", config.recipe, RECIPES)
    check(config)
    bounds = {
        **dict.fromkeys(("rounds", "rollouts", "plant_epochs", "hidden"), (1, None)),
        **dict.fromkeys(("train_count", "select_count"), (1, None)),
        **dict.fromkeys(("report_first", "report_count", "processes"), (0, None)),
        "preview": (2, 50),
        "history": (2, 20),
    }
    for name, (least, most) in bounds.items():
        value = getattr(config, name)
        if value < least or (most is not None and value > most):
            limit = f"at least {least}" if most is None else f"{least} to {most}"
            raise InputError(f"{name}={value} must be {limit}")


main = study(Config, run, resumes=True)

if __name__ == "__main__":
    main()
