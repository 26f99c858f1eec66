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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steerlab.agents.tinyphysics.controller import PolicyController
from steerlab.agents.tinyphysics.exploration import MomentExploration, explore
from steerlab.agents.tinyphysics.model import PolicyShape, PreviewPolicy
from steerlab.agents.tinyphysics.moments import learn_plant, soft_costs
from steerlab.agents.tinyphysics.report import compare_with_pid, plot_curves
from steerlab.agents.tinyphysics.rollout import Roads
from steerlab.agents.tinyphysics.train import GradientConfig, check, improve
from steerlab.envs.tinyphysics.rollout import evaluate
from steerlab.errors import InputError
from steerlab.exporters.tinyphysics import export_policy, write_controller
from steerlab.files import writable_folder, write_json
from steerlab.options import option
from steerlab.seeds import generator_seed, initial_weights
from steerlab.study import study
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.plants.moments import MomentPlant
from steerlab.surrogates.segments.data import Segments
from steerlab.surrogates.segments.synthetic import find_routes


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
        processes = config.processes or os.cpu_count() or 1
        file = output / "controller.py"
        figures = compare_with_pid(file, report, config.plant, config.salts, processes)
        result |= {"report": figures}
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
        model = learn_plant(
            model,
            paths,
            folder / "plant",
            epochs=config.plant_epochs,
            seed=config.seed,
            part=number,
        )
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


def _selection_cost(config: Config, policy: PreviewPolicy, select: Segments) -> float:
    """Return the mean total_cost in the plant itself, official noise."""
    found = evaluate(
        lambda: PolicyController(policy), select, config.plant, "fast", batch_size=len(select)
    )
    return float(found.costs.total_cost.mean())


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
