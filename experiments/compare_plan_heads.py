"""Compare plan heads on the features of one frozen vision network: equal steps, several seeds.

Every head is trained on the same windows with the same optimiser for the same number of steps. A tenth
of the episodes is kept for validation; the last epoch is evaluated, on other shards: use those of a map
that was not trained on. Errors are displacements from the teacher's plan 2 s and 4 s ahead. FDE is the
error at that time and ADE its mean up to it, for the likeliest hypothesis (top-1) and for the best of all
five. Without checkpoint= the features are projections of the labels, as a vision network without errors would
give them (for development). Trained heads are kept: after a stop the same command continues.

Examples:
  steerlab compare-plan-heads train=shards test=shards_town06 checkpoint=runs/mine/artifacts/checkpoints/epoch_0020.pt
  steerlab compare-plan-heads train=shards test=shards_town06 "seeds=[0]" policy.epochs=10
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from steerlab.agents.driving import load_vision
from steerlab.agents.drivingpolicy.data import FeatureEpisode, Windows, with_true_features
from steerlab.agents.drivingpolicy.evaluate import (
    HORIZONS,
    command_errors,
    constant_turn,
    network_planner,
    plan_errors,
)
from steerlab.agents.drivingpolicy.network import Diffusion, DrivingPolicy
from steerlab.agents.drivingpolicy.training import PolicyOptions, seen_by, settings_of, train_policy
from steerlab.agents.visionnet.data import find, split_by_episode
from steerlab.envs.shards.read import Shard
from steerlab.errors import InputError, unknown_name
from steerlab.files import atomic_path
from steerlab.options import option
from steerlab.study import study

#: Name of an arm: head and rounds of refinement.
ARMS = {
    "regression": ("regression", 0), "mdn": ("mdn", 0), "anchors": ("anchored", 0),
    "anchors+1": ("anchored", 1), "anchors+2": ("anchored", 2), "anchors+4": ("anchored", 4),
    "flow": ("flow", 4),
}  # fmt: skip
HELD = "constant turn"
FIGURES = "plan_heads.json"
Figures = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    train: str = option("", "folder of shards for training")
    test: str = option("", "folder of shards for evaluation, preferably of another map")
    checkpoint: str = option(
        "", "epoch_NNNN.pt whose vision network makes the features; '' = true state"
    )
    cache: str = option("", "folder that keeps decoded frames and features; '' = none")
    heads: tuple[str, ...] = option(tuple(ARMS), f"which of {', '.join(ARMS)}")
    seeds: tuple[int, ...] = option((0, 1, 2), "seeds of weights, order and noise")
    policy: PolicyOptions = option(PolicyOptions(), "")
    diffusion: Diffusion = option(Diffusion(), "")
    contract: str = option("openpilot-0.10.0", "the release whose rule reads commands from plans")
    device: str = option("auto", "auto, cpu or cuda")
    threads: int = option(1, "threads of torch")


def run(config: Config, output: Path) -> Figures:
    """Train every head with every seed, print the table; return the figures by head and measure."""
    for name in config.heads:
        if name not in ARMS:
            raise unknown_name("plan head of the comparison", name, ARMS)
    if not config.heads or not config.seeds:
        raise InputError("heads=[...] and seeds=[...] need at least one entry each")
    torch.set_num_threads(config.threads)
    shards = _shards(config.train, "train")
    learned, judged = split_by_episode(shards, 0.1)
    train = Windows(_seen(learned, config, config.policy.mirror))
    valid, test = (Windows(_seen(part, config)) for part in (judged, _shards(config.test, "test")))
    held = plan_errors(constant_turn, test)
    found: Figures = {HELD: {name: [value] for name, value in held.items()}}
    for name in config.heads:
        for seed in config.seeds:
            network = _trained(name, seed, config, train, valid, output)
            errors = plan_errors(network_planner(network), test) | command_errors(network, test)
            for measure, value in errors.items():
                found.setdefault(name, {}).setdefault(measure, []).append(value)
            with atomic_path(output / FIGURES) as temporary:
                temporary.write_text(json.dumps(_plain(found), indent=1, allow_nan=False), "utf-8")
    source = "true-state features" if not config.checkpoint else Path(config.checkpoint).name
    _print(found, f"{len(train):,} windows to learn from, {len(test):,} to judge by; {source}")
    return found


def _shards(path: str, name: str) -> list[Shard]:
    """Return the shards of a folder; say which are left out."""
    shards, bad = find(path, name)
    for line in bad:
        Console().print(f"left out: {line}", markup=False, soft_wrap=True)
    return shards


def _seen(shards: Sequence[Shard], config: Config, mirror: bool = False) -> list[FeatureEpisode]:
    if not config.checkpoint:
        return with_true_features(shards, mirror)
    return seen_by(load_vision(config.checkpoint), shards, config.cache, mirror)


def _trained(
    name: str, seed: int, config: Config, train: Windows, valid: Windows, output: Path
) -> DrivingPolicy:
    """Train one head with one seed."""
    head, steps = ARMS[name]
    # The best epoch by validation loss would often be the first: stops that no picture explains weigh most in
    # that loss, and it rises while plans still get better.
    settings = settings_of(
        replace(config.policy, head=head, keep="last"), replace(config.diffusion, steps=steps),
        contract=config.contract, seed=seed, device=config.device,
    )  # fmt: skip
    return train_policy(settings, train, valid, output / f"{name}_{seed}")


def _plain(found: Figures) -> dict[str, dict[str, list[float | None]]]:
    """Return figures as JSON can say them: null where no label goes that far."""
    return {
        name: {
            measure: [value if math.isfinite(value) else None for value in values]
            for measure, values in figures.items()
        }
        for name, figures in found.items()
    }


def _print(found: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> None:
    """Print mean and spread over seeds, m."""
    table = Table(title=title, header_style="bold",
                  caption="m, mean ± standard deviation over seeds; best: of five hypotheses")  # fmt: skip
    table.add_column("head")
    measures = [
        f"{kind}_{s:g}s" for s in HORIZONS for kind in ("ade", "fde", "best_ade", "best_fde")
    ]
    for measure in measures:
        table.add_column(measure.replace("_", " "), justify="right")
    for name, figures in found.items():
        cells = []
        for measure in measures:
            values = np.array(figures[measure])
            spread = f" ±{values.std(ddof=1):.2f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.2f}{spread}")
        table.add_row(name, *cells)
    Console(width=max(Console().width, 140)).print(table)


main = study(Config, run, resumes=True, free=("cache", "threads"))

if __name__ == "__main__":
    main()
