"""Compare the ways to drive TinyPhysics: one table of costs and seconds.

Reads the drives, the learned model and the policy that train-tinyphysics-controller wrote to `run=`,
and drives routes in the plant with

  pid          comma's controller, the reference of the ratios
  feedforward  the steer that holds the coming target, and a weaker pid
  regulator    preview LQR on a linear model of the drives
  sampled      sampling MPC around the regulator, in the learned model
  gradient     trajectory optimisation around the regulator, by gradient through the learned model
  policy       the trained policy
  sampled policy, gradient policy    the two planners around the policy

No controller gets more than comma's update() gets. Planners are slow, so select with routes= and
controllers=.

Example:
  steerlab compare-tinyphysics-controllers run=runs/train_tinyphysics_controller/... count=20
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from steerlab.agents.checkpoint import load_checkpoint
from steerlab.agents.classical.pid import PID
from steerlab.agents.supervised import KIND as SUPERVISED
from steerlab.agents.tinyphysics.controller import PolicyController
from steerlab.agents.tinyphysics.model import PolicyShape, PreviewPolicy
from steerlab.agents.tinyphysics.planners import (
    FeedforwardPID,
    GradientPlans,
    LinearModel,
    PreviewRegulator,
    SampledPlans,
)
from steerlab.agents.tinyphysics.report import summary
from steerlab.agents.tinyphysics.train import read_policy
from steerlab.agents.training_loop import BEST, LAST
from steerlab.envs.tinyphysics.dynamics import STEPS
from steerlab.envs.tinyphysics.rollout import evaluate
from steerlab.errors import InputError, unknown_name
from steerlab.files import write_json
from steerlab.options import option
from steerlab.study import CONFIG_FILE, study
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.plants.moments import MomentPlant, Transitions
from steerlab.surrogates.segments.synthetic import find_routes

CONTROLLERS = (
    *("pid", "feedforward", "regulator", "sampled", "gradient"),
    *("policy", "sampled policy", "gradient policy"),
)


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    run: str = option("", "output folder of train-tinyphysics-controller")
    controllers: list[str] = option([*CONTROLLERS], "controllers to compare")
    first: int = option(350, "number of the first route; routes 350 to 399 selected the policy")
    count: int = option(50, "number of routes")
    seeds: str = option("official", "official, or any word: a salt that gives other noise")


def run(config: Config, output: Path) -> dict[str, Any]:
    """Drive, print, write table.json; return the figures by controller."""
    for name in config.controllers:
        if name not in CONTROLLERS:
            raise unknown_name("controller", name, CONTROLLERS)
    folder = Path(config.run)
    if not config.run or not (folder / CONFIG_FILE).is_file():
        raise InputError(
            f"run={config.run!r} is no output folder of steerlab train-tinyphysics-controller"
        )
    training = OmegaConf.load(folder / CONFIG_FILE)
    end = config.first + config.count
    segments = find_routes(training.segments, end, training.seed)
    if not 0 <= config.first < end <= len(segments):
        raise InputError(
            f"first={config.first} and count={config.count} leave the {len(segments)} routes"
        )
    segments = segments[config.first : end]
    plant = load_plant(training.plant, "fast")
    factories = _factories(folder, training)
    figures: dict[str, Any] = {}
    for name in tqdm(config.controllers, unit="controller"):
        deciding = _Timed(factories[name]())
        found = evaluate(
            partial(_same, deciding), segments, plant, seeds=config.seeds, batch_size=50
        )
        decisions = STEPS * len(segments)
        figures[name] = summary(found.costs._asdict())
        figures[name]["seconds_a_decision"] = deciding.seconds / decisions
    _print(config, figures)
    write_json(output / "table.json", figures)
    return figures


def _same(controller: Any) -> Any:
    return controller


class _Timed:
    """A controller whose decisions are timed."""

    def __init__(self, controller: Any) -> None:
        self._controller, self.seconds = controller, 0.0
        self.shares_noise = controller.shares_noise
        self.reset = controller.reset

    def update(self, *seen: Any) -> Any:
        """Return the controller's steer (N,)."""
        start = time.process_time()
        steer = self._controller.update(*seen)
        self.seconds += time.process_time() - start
        return steer


def _factories(folder: Path, training: Any) -> dict[str, Callable[[], Any]]:
    """Return what makes each controller."""
    rounds = sorted(folder.glob("round_*"), key=lambda p: int(p.name.partition("_")[2]))
    done = [r for r in rounds if (r / "policy" / LAST).exists()]
    if not done:
        raise InputError(f"run={str(folder)!r} has finished no round; let the training go on")
    paths = [path for r in done for path in sorted((r / "drives").glob("*.npz"))]
    linear = LinearModel(Transitions.join([Transitions.load(path) for path in paths[:20]]))
    model = MomentPlant()
    model.load_state_dict(load_checkpoint(done[-1] / "plant" / BEST, SUPERVISED)["model"])
    model.requires_grad_(False)
    shape = PolicyShape(training.hidden, training.preview, training.history, training.delta)
    policy = PreviewPolicy(shape)
    policy.load_state_dict(read_policy(done[-1] / "policy" / LAST))
    policy.requires_grad_(False)
    regulator = PreviewRegulator(linear)
    return {
        "pid": PID,
        "feedforward": lambda: FeedforwardPID(linear),
        "regulator": lambda: PolicyController(regulator),
        "sampled": lambda: PolicyController(SampledPlans(model, regulator)),
        "gradient": lambda: PolicyController(GradientPlans(model, regulator)),
        "policy": lambda: PolicyController(policy),
        "sampled policy": lambda: PolicyController(SampledPlans(model, policy)),
        "gradient policy": lambda: PolicyController(GradientPlans(model, policy)),
    }


def _print(config: Config, figures: dict[str, Any]) -> None:
    table = Table(
        *("controller", "lataccel", "jerk", "total", "95 % interval", "median", "p95", "to pid"),
        "ms a decision",
        title=f"{config.count} routes from {config.first} on, noise: {config.seeds}",
        header_style="bold",
    )
    for name, entry in figures.items():
        low, high = entry["interval"]
        ratio = ""
        if "pid" in figures:
            ratio = f"{entry['total_cost'] / figures['pid']['total_cost']:.3f}"
        table.add_row(
            name,
            *(f"{entry[k]:.2f}" for k in ("lataccel_cost", "jerk_cost", "total_cost")),
            f"{low:.1f} - {high:.1f}",
            *(f"{entry[k]:.1f}" for k in ("median", "p95")),
            ratio,
            f"{1000 * entry['seconds_a_decision']:.3f}",
        )
    Console(width=120).print(table)


main = study(Config, run)

if __name__ == "__main__":
    main()
