"""Leave out one part of the gradient recipe at a time and measure the cost on TinyPhysics.

Reads the drives of random controllers and the learned model of the first round that
train-tinyphysics-controller wrote to `run=`. Trains a policy in that model for each variant, all
with the same number of gradient steps:

  default               the recipe as it is
  another seed          other initial weights, routes and noise; the size of a chance difference
  preview 5, 15, 25     fewer steps of the future
  history 2, 6          fewer steps of the past
  absolute              the network's output is the steer, not a change of it
  expected              rollouts use the mean of the next lateral acceleration; no noise is drawn
  greedy                the last actions of a horizon have a gradient, too
  plain routes          no route is mirrored, sharper or gentler
  few rows              16 rollouts in a batch instead of `rows`
  comma few rows        the same with the gradient of the plant's own network, not of the learned model
  then few rows         continues the default's policy in the learned model with 16 rollouts
  then comma            continues it with the gradient of the plant's own network

The last four have `few_updates` gradient steps, since the plant's own network needs much more time.
The table gives the costs on the routes that select a policy, and the paired difference to the default
(for the last three: to the variant before). After an interruption the same command continues.

Example:
  steerlab ablate-tinyphysics-controller run=runs/train_tinyphysics_controller/...
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from steerlab.agents.checkpoint import fitting, load_checkpoint
from steerlab.agents.run_log import read_log
from steerlab.agents.supervised import KIND as SUPERVISED
from steerlab.agents.tinyphysics.model import PolicyShape, PreviewPolicy
from steerlab.agents.tinyphysics.moments import soft_costs
from steerlab.agents.tinyphysics.recipe import Bench
from steerlab.agents.tinyphysics.report import summary
from steerlab.agents.tinyphysics.rollout import Roads
from steerlab.agents.tinyphysics.train import GradientConfig, check, improve, read_policy
from steerlab.agents.training_loop import BEST, LAST
from steerlab.errors import InputError, unknown_name
from steerlab.files import atomic_path, writable_folder, write_json
from steerlab.line_styles import line_styles
from steerlab.options import option
from steerlab.readers.arrays import read_arrays, require, write_arrays
from steerlab.study import CONFIG_FILE, study
from steerlab.surrogates.plants.moments import MomentPlant
from steerlab.surrogates.plants.soft import TokenMoments
from steerlab.surrogates.segments.synthetic import find_routes
from steerlab.types import Floats


@dataclass(frozen=True)
class Variant:
    """What is other than in the default.

    Attributes:
        options: Of the gradient.
        shape: Of the policy.
        exact: Whether the gradient passes the plant's own network.
        start: Variant whose policy training begins with.
        against: Variant that it is compared with.
    """

    options: Mapping[str, Any]
    shape: Mapping[str, Any]
    exact: bool = False
    start: str = ""
    against: str = "default"


def _variants(config: "Config") -> dict[str, Variant]:
    few = {"rows": 16, "updates": config.few_updates}
    on = few | {"learning_rate": config.learning_rate / 5}
    return {
        "default": Variant({}, {}, against=""),
        "another seed": Variant({"seed": config.seed + 1}, {}),
        **{f"preview {k}": Variant({}, {"preview": k}) for k in (5, 15, 25)},
        **{f"history {k}": Variant({}, {"history": k}) for k in (2, 6)},
        "absolute": Variant({}, {"delta": False}),
        "expected": Variant({"noise": False}, {}),
        "greedy": Variant({"lookahead": 0}, {}),
        "plain routes": Variant({"varied": 0.0}, {}),
        "few rows": Variant(few, {}),
        "comma few rows": Variant(few, {}, exact=True, against="few rows"),
        "then few rows": Variant(on, {}, start="default"),
        "then comma": Variant(on, {}, exact=True, start="default", against="then few rows"),
    }


@dataclass(frozen=True)
class Config(GradientConfig):
    """Options of the study."""

    run: str = option("", "output folder of train-tinyphysics-controller")
    variants: list[str] = option([], "variants to train; [] = all")
    updates: int = option(150, "gradient steps of each variant")
    rows: int = option(128, "rollouts in a batch")
    few_updates: int = option(40, "gradient steps of the last four variants")
    evaluate_every: int = option(25, "updates between points of the learning curves")
    hidden: int = option(128, "units of the policy's two layers")


def run(config: Config, output: Path) -> dict[str, Any]:
    """Train what is missing, print the table; return the figures by variant."""
    check(config)
    variants = _chosen(config)
    bench, model = _bench(config)
    figures: dict[str, Any] = {}
    costs: dict[str, Floats] = {}
    for name, variant in variants.items():
        done = writable_folder(output / _slug(name)) / "costs.npz"
        if not done.exists():
            _train(config, bench, model, output, name, variant)
        costs[name], seconds = require(read_arrays(done), ("total_cost", "seconds"), done)
        figures[name] = entry = summary({"total_cost": costs[name]})
        entry["seconds"] = float(seconds)
        if variant.against:
            apart = summary({"total_cost": costs[name] - costs[variant.against]})
            entry |= {"against": variant.against, "difference": apart["total_cost"]}
            entry["difference_interval"] = apart["interval"]
    _print(config, bench, figures)
    _plot(output, variants)
    write_json(output / "table.json", figures)
    return figures


def _bench(config: Config) -> tuple[Bench, MomentPlant]:
    """Return where all variants are trained, and the model of the run's first round."""
    folder = Path(config.run)
    if not config.run or not (folder / CONFIG_FILE).is_file():
        raise InputError(
            f"run={config.run!r} is no output folder of steerlab train-tinyphysics-controller"
        )
    training = OmegaConf.load(folder / CONFIG_FILE)
    model = MomentPlant()
    path = folder / "round_1" / "plant" / BEST
    with fitting(path, "MomentPlant"):
        model.load_state_dict(load_checkpoint(path, SUPERVISED)["model"])
    middle, end = training.train_count, training.train_count + training.select_count
    segments = find_routes(training.segments, end, training.seed)
    shape = PolicyShape(config.hidden)
    bench = Bench(training.plant, segments[:middle], segments[middle:end], 1, shape, config.seed)
    return bench, model


def _train(
    config: Config, bench: Bench, model: MomentPlant, output: Path, name: str, variant: Variant
) -> None:
    """Train a variant and write what it costs on each route, and the seconds of processor time."""
    own = {f.name: getattr(config, f.name) for f in fields(GradientConfig)}
    options = replace(GradientConfig(**own), **variant.options)
    shape = PolicyShape(config.hidden, **variant.shape)
    policy = replace(bench, shape=shape, seed=options.seed).first_policy()
    if variant.start:
        policy.load_state_dict(read_policy(output / _slug(variant.start) / LAST))
    plant = TokenMoments.of(bench.plant) if variant.exact else model
    trial = Roads.of(bench.select)

    def metrics(policy: PreviewPolicy) -> dict[str, float]:
        return {"soft_cost": float(soft_costs(policy, model, trial).mean())}

    start = time.process_time()
    policy = improve(policy, plant, bench.roads, options, output / _slug(name), metrics)
    seconds = time.process_time() - start
    contents = {"total_cost": bench.selection_costs(policy), "seconds": np.array(seconds)}
    write_arrays(output / _slug(name) / "costs.npz", contents)


def _chosen(config: Config) -> dict[str, Variant]:
    """Return the variants that are asked for, and those that they need, in the order of the table."""
    known = _variants(config)
    wanted = set(config.variants or known)
    for name in wanted:
        if name not in known:
            raise unknown_name("variant", name, known)
    for name in reversed(known):
        if name in wanted:
            wanted |= {known[name].start, known[name].against}
    return {name: variant for name, variant in known.items() if name in wanted}


def _slug(name: str) -> str:
    return name.replace(" ", "_")


def _print(config: Config, bench: Bench, figures: dict[str, Any]) -> None:
    names = bench.select.names
    table = Table(
        *("variant", "total_cost", "95 % interval", "median", "p95", "difference (paired)", "to"),
        "seconds",
        title=f"{len(names)} routes {names[0]} to {names[-1]}, official noise; {config.updates} "
        f"gradient steps, the last four {config.few_updates}",
        header_style="bold",
    )
    for name, entry in figures.items():
        low, high = entry["interval"]
        difference = ""
        if "against" in entry:
            left, right = entry["difference_interval"]
            difference = f"{entry['difference']:+.2f} [{left:+.2f}, {right:+.2f}]"
        table.add_row(
            name,
            f"{entry['total_cost']:.2f}",
            f"{low:.1f} - {high:.1f}",
            *(f"{entry[k]:.1f}" for k in ("median", "p95")),
            difference,
            entry.get("against", ""),
            f"{entry['seconds']:.0f}",
        )
    Console(width=130).print(table)


def _plot(output: Path, variants: Iterable[str]) -> None:
    """Draw the cost in the model over the gradient steps, a line a variant."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, style in line_styles(variants).items():
        records = read_log(output / _slug(name))
        x, y = ([r[k] for r in records] for k in ("step", "valid/soft_cost"))
        axes.plot(x, y, label=name, linewidth=1.2, markersize=4, **style)
    axes.set(xlabel="gradient steps", ylabel="total_cost in the model, selection routes")
    axes.set_yscale("log")
    axes.legend(fontsize="small", ncols=2)
    axes.grid(alpha=0.3, which="both")
    with atomic_path(output / "ablation_curves.png") as temporary:
        figure.savefig(temporary, dpi=120)


main = study(Config, run, resumes=True, free=("variants",))

if __name__ == "__main__":
    main()
