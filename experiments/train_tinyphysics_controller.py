"""Train a TinyPhysics controller by the gradient of the official cost, and put it on trial.

Rounds of three steps. Drive: routes are driven in the plant (comma's), first by many random
controllers, later by the policy itself. Model: a small network learns mean and deviation of what the
plant predicts. Improve: the policy drives hundreds of routes side by side in that network, and the
gradient of the cost passes through all of it (steerlab.agents.tinyphysics).

Routes are used once: the first train_count to learn from, the next select_count to choose the round
that is kept, and report_count from report_first on to measure it, with the official noise
and with salted noise. The result is one file for comma's repository, and ONNX. Interrupt it at any
time: the same command with the same output= goes on.

Examples:
  steerlab train-tinyphysics-controller
  steerlab train-tinyphysics-controller plant=tinyphysics.onnx segments=segments.zip
  steerlab evaluate-tinyphysics controller=runs/.../controller.py plant=comma segments=comma
"""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap

from steerlab.agents.classical.comma import controller_factory
from steerlab.agents.run_log import read_log
from steerlab.agents.supervised import FitConfig, fit
from steerlab.agents.tinyphysics.controller import PolicyController
from steerlab.agents.tinyphysics.exploration import MomentExploration, explore
from steerlab.agents.tinyphysics.model import PolicyShape, PreviewPolicy
from steerlab.agents.tinyphysics.rollout import Roads, SoftRollout
from steerlab.agents.tinyphysics.train import GradientConfig, check, improve
from steerlab.envs.tinyphysics.dynamics import STEPS
from steerlab.envs.tinyphysics.render import plot_rollout
from steerlab.envs.tinyphysics.rollout import Evaluation, evaluate
from steerlab.errors import InputError
from steerlab.exporters.tinyphysics import export_policy, write_controller
from steerlab.files import atomic_path, writable_folder, write_json
from steerlab.options import option
from steerlab.seeds import generator_seed, initial_weights
from steerlab.study import study
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.plants.moments import MomentData, MomentPlant, Transitions, moment_loss
from steerlab.surrogates.segments.data import Segments
from steerlab.surrogates.segments.synthetic import find_segments, synthetic_segments
from steerlab.types import Floats


@dataclass(frozen=True)
class Config(GradientConfig):
    """Options of the study."""

    plant: str = option("comma", "default, comma, or an ONNX file with comma's signature")
    segments: str = option(
        "comma", "comma, a folder or zip of comma CSVs, default, or synthetic: as many as needed"
    )
    train_count: int = option(350, "routes to learn from, the first ones")
    select_count: int = option(50, "routes to choose the round on, the next ones")
    report_first: int = option(400, "number of the first route of the report")
    report_count: int = option(100, "routes of the report; 0 = none")
    salts: list[str] = option(["honest", "second", "third"], "other noises of the report")
    rounds: int = option(2, "rounds of driving, modelling and improving")
    rollouts: int = option(600, "drives in the plant a round, 50 s each")
    plant_epochs: int = option(10, "passes over the drives that the model makes in a round")
    hidden: int = option(128, "units of the policy's two layers")
    preview: int = option(50, "steps of the future that the policy sees, at most 50")
    history: int = option(20, "steps of its past that the policy sees, 2 to 20")
    delta: bool = option(True, "the policy answers with a change of the steer, else with the steer")
    updates: int = option(600, "gradient steps a round")
    processes: int = option(0, "processes that drive in the plant; 0 = one a core")


def run(config: Config, output: Path) -> dict[str, Any]:
    """Train, choose, export and report."""
    _check(config)
    train, select, report = _routes(config)
    load_plant(config.plant)  # fails here, not after an hour
    start = time.perf_counter()
    policies = _rounds(config, output, train, select)
    with torch.no_grad():
        costs = [_selection_cost(config, p, select) for p in policies]
    chosen = int(np.argmin(costs))
    policy = policies[chosen]
    about = f"Trained by steerlab train-tinyphysics-controller, round {chosen + 1}."
    write_controller(policy, output / "controller.py", about)
    export_policy(policy, output / "policy.onnx")
    plot_curves(output, config.rounds)
    hardware = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes in this run on {hardware}")
    result = {"selection": costs, "round": chosen + 1}
    if report is not None:
        result |= {"report": put_on_trial(config, output, report)}
    write_json(output / "result.json", result)
    print(f"controller: {output / 'controller.py'}\npolicy:     {output / 'policy.onnx'}")
    return result


def _rounds(config: Config, output: Path, train: Segments, select: Segments) -> list[PreviewPolicy]:
    """Return the policy of each round."""
    roads, trial = Roads.of(train), Roads.of(select)
    policies: list[PreviewPolicy] = []
    paths: list[Path] = []
    model: MomentPlant | None = None
    for number in range(config.rounds):
        folder = writable_folder(output / f"round_{number + 1}")
        seed = generator_seed("data", config.seed, number)
        exploration = MomentExploration(
            config.plant, train, config.rollouts, seed, policies[-1] if policies else None
        )
        processes = config.processes or os.cpu_count() or 1
        paths += explore(exploration, writable_folder(folder / "drives"), processes)
        model = learn_plant(model, paths, config, number, folder / "plant")
        shape = PolicyShape(config.hidden, config.preview, config.history, config.delta)
        with initial_weights(config.seed):
            policy = PreviewPolicy(shape)
        if policies:
            policy.load_state_dict(policies[-1].state_dict())
        else:
            policy.fit_normaliser(roads.typical(config.seed))

        def metrics(policy: PreviewPolicy, plant: MomentPlant = model) -> dict[str, float]:
            soft = soft_costs(policy, plant, trial)
            exact = _selection_cost(config, policy, select)
            return {"soft_cost": float(soft.mean()), "total_cost": exact}

        policies.append(improve(policy, model, roads, config, folder / "policy", metrics, number))
    return policies


def learn_plant(
    model: MomentPlant | None, paths: Sequence[Path], config: Config, part: int, output: Path
) -> MomentPlant:
    """Return a model that learned from all drives; every twentieth file validates it.

    Args:
        model: Where learning starts; None for a new one.
        paths: Files of drives.
        config: Options of the study.
        part: Tells trainings of one run apart.
        output: Folder of the results.
    """
    drives = [Transitions.load(path) for path in paths]
    kept = [d for i, d in enumerate(drives) if i % 20] or drives
    train, valid = (MomentData(Transitions.join(some)) for some in (kept, drives[::20]))
    if model is None:
        with initial_weights(config.seed):
            model = MomentPlant()
        rng = torch.Generator().manual_seed(generator_seed("data", config.seed, part, 1))
        model.fit_normaliser(train[torch.randint(len(train), (20_000,), generator=rng)])
    model = deepcopy(model).requires_grad_(True)
    options = FitConfig(
        epochs=config.plant_epochs,
        batch_size=1024,
        learning_rate=4e-3,
        warmup_steps=50,
        seed=config.seed + part,
        device="cpu",
    )
    fit(model, moment_loss, train, valid, options, output)
    return model.requires_grad_(False)


@torch.no_grad()
def soft_costs(policy: PreviewPolicy, plant: MomentPlant, roads: Roads) -> torch.Tensor:
    """Return the total_cost (N,) of every route in the model, always with the same noise."""
    rng = torch.Generator().manual_seed(generator_seed("validation"))
    noise = torch.randn(STEPS, len(roads.road), generator=rng)
    return torch.stack(list(SoftRollout(plant, roads).drive(policy, noise))).sum(dim=0)


def _selection_cost(config: Config, policy: PreviewPolicy, select: Segments) -> float:
    """Return the mean total_cost in the plant itself, official noise."""
    found = evaluate(
        lambda: PolicyController(policy), select, config.plant, "fast", batch_size=len(select)
    )
    return float(found.costs.total_cost.mean())


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
