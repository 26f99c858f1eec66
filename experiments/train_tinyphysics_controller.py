"""Train a TinyPhysics controller by the gradient of the official cost, or by another recipe, and test it.

recipe=gradient  Rounds of three steps. Drive: routes are driven in the plant (comma's), first by many
                 random controllers, later by the policy itself. Model: a small network learns mean and
                 deviation of the plant's prediction. Improve: the policy drives hundreds of routes in
                 one batch in that network, and the gradient of the cost passes through all of it.
recipe=cloning   A planner drives, then the policy, and the planner labels all drives (DAgger).
recipe=cma       CMA-ES on the weights, by the cost in the plant itself; needs the extra train.
recipe=ppo       PPO on TinyPhysics-v0.

All recipes train the same policy and write the same files. With start=, a recipe begins with the policy
of another run of this study, for instance cma after gradient, or ppo after cloning.

Each route has one use: the first train_count are for training, the next select_count select the policy
that is kept, and report_count from report_first on measure it, with the official noise and with other
noise. The result is one file for comma's repository, and ONNX. You may interrupt the command at any
time: the same command with the same output= continues.

Examples:
  steerlab train-tinyphysics-controller
  steerlab train-tinyphysics-controller plant=tinyphysics.onnx segments=segments.zip
  steerlab train-tinyphysics-controller recipe=cma start=runs/train_tinyphysics_controller/...
  steerlab evaluate-tinyphysics controller=runs/.../controller.py plant=comma segments=comma
"""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

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
from steerlab.agents.tinyphysics.report import compare_with_pid, plot_curves
from steerlab.agents.tinyphysics.rounds import RoundsConfig, train_by_gradient
from steerlab.agents.tinyphysics.train import check
from steerlab.errors import InputError, unknown_name
from steerlab.exporters.tinyphysics import export_policy, write_controller
from steerlab.files import write_json
from steerlab.options import option
from steerlab.readers.text import read_json
from steerlab.study import study
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.segments.data import Segments
from steerlab.surrogates.segments.synthetic import find_routes

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
        "comma", "comma, a folder or zip of comma CSVs, default, or synthetic (as many as needed)"
    )
    train_count: int = option(350, "number of training routes, the first ones")
    select_count: int = option(50, "number of routes that select the policy, the next ones")
    report_first: int = option(400, "number of the first route of the report")
    report_count: int = option(100, "number of routes of the report; 0 = none")
    salts: list[str] = option(["honest", "second", "third"], "number of other noises in the report")
    hidden: int = option(128, "units of the policy's two layers")
    preview: int = option(50, "future steps in the policy's input, at most 50")
    history: int = option(20, "past steps in the policy's input, 2 to 20")
    delta: bool = option(True, "the policy's output is a change of the steer; false = the steer")
    processes: int = option(0, "processes that drive in the plant; 0 = one per core")
    cloning: CloningConfig = field(default_factory=CloningConfig)
    cma: EvolutionConfig = field(default_factory=EvolutionConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)


#: What each recipe does in the output folder.
RECIPES: dict[str, Callable[[Bench, Config, Path], Trained]] = {
    "gradient": train_by_gradient,
    "cloning": lambda bench, c, out: train_by_cloning(bench, c.cloning, out, c.plant_epochs),
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
        file = output / "controller.py"
        figures = compare_with_pid(file, report, config.plant, config.salts, bench.processes)
        result |= {"report": figures}
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
