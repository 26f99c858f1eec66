"""Compare the recipes that train PolicyNet, and PPO for the mean with PPO for CVaR.

Recipes, each with the same number of driven steps: DAgger from the preview controller, DAgger from a
RecurrentPPO driver, PPO from random weights, and DAgger then PPO. Then the last stage once more: PPO for the
mean against PPO for the worst episodes, from the same policy, with several seeds. All drive the same
held-out episodes, with the commands that openpilot's runner would publish. Intervals of 95 %: bootstrap over seeds, and within a seed over
roads, which both learners share. Interrupted, the same command goes on.

Examples:
  steerlab compare-policynet
  steerlab compare-policynet start=runs/mine/policy_model.pth recurrent=runs/train_kinematic_driver/mine
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure

from steerlab.agents.checkpoint import fitting
from steerlab.agents.paired_comparison import (
    Episodes,
    Summary,
    paired_intervals,
    plot_returns,
    print_intervals,
)
from steerlab.agents.policynet.closed_loop import check_episodes, drive_held_out
from steerlab.agents.policynet.driver import frame_driver
from steerlab.agents.policynet.evaluate import TARGETS, Figures, figures
from steerlab.agents.policynet.model import PolicyNet
from steerlab.agents.policynet.ppo import PPOConfig, check_ppo, train_ppo
from steerlab.agents.policynet.report import print_figures
from steerlab.agents.policynet.train import (
    POLICY,
    ImitationConfig,
    check,
    choose_teacher,
    load_policy,
    train_imitation,
)
from steerlab.agents.recurrent_ppo.train import DriverConfig, train_driver
from steerlab.envs.kinematic_driver.roads import START
from steerlab.envs.wrappers.cvar import cvar
from steerlab.errors import InputError
from steerlab.files import atomic_path, transaction, writable_folder, write_json
from steerlab.line_styles import line_styles
from steerlab.options import option
from steerlab.readers.arrays import read_arrays, write_arrays
from steerlab.readers.text import read_json
from steerlab.study import study

BLOCK = 250  # episodes that are driven side by side
#: The driver that is trained to teach where none is given: compare-cvar's settings.
TEACHER = DriverConfig(
    total_steps=153_600, num_envs=128, batch_size=3200, epochs=4, learning_rate=1e-4, log_std=-2.0,
    cell="gru", imitation=6,
)  # fmt: skip
#: Options of PPO from random weights: larger steps and more exploration, and no time for the critic alone.
FROM_RANDOM_WEIGHTS = {"learning_rate": 3e-4, "lateral": 1.0, "pedal": 0.7, "critic_first": 0}


@dataclass(frozen=True)
class Config(ImitationConfig):
    """Options of the study; the options of DAgger are those of ``train-policynet``."""

    total_steps: int = option(256_000, "driven steps of each recipe")
    num_envs: int = option(64, "environments of DAgger")
    ppo_steps: int = option(
        128_000, "steps of PPO after DAgger, out of these; also those of the ablation"
    )
    ppo: PPOConfig = field(default_factory=PPOConfig)
    alpha: float = option(0.05, "share of the worst returns that counts in the CVaR arm")
    recurrent: str = option("", "folder of steerlab train-kinematic-driver, the second teacher; "
                            "'' trains one")  # fmt: skip
    start: str = option("", "policy_model.pth from which the ablation begins; '' = after the DAgger "
                        "of dagger_ppo")  # fmt: skip
    seeds: int = option(3, "trainings of each arm of the ablation")
    roads: int = option(1000, "held-out episodes that each policy drives")
    resamples: int = option(2000, "resamples of the bootstrap")
    film: int = option(0, "steps of the episode that is filmed for TensorBoard; 0 = none")
    threads: int = option(1, "threads of torch")


def run(config: Config, output: Path) -> dict[str, Any]:
    """Train what is missing, evaluate, print; return figures and intervals."""
    _check(config)
    torch.set_num_threads(config.threads)
    arms = _Study(config, output)
    ablation = _ablation(config, arms)
    plot_returns(ablation.episodes, output / "returns.png")
    first = arms.first()
    found = {
        "dagger": arms.dagger("dagger", config.total_steps)[0],
        "recurrent": arms.recurrent()[0],
        "ppo": arms.ppo("ppo", config.total_steps, None, 1.0, config.seed)[0],
        "dagger_ppo": arms.ppo("dagger_ppo", config.ppo_steps, arms.began, 1.0, config.seed)[0],
    }
    print_figures({"first": first[0], **found})
    summary = {
        "recipes": {n: f.as_dict() for n, f in (found | {"first": first[0]}).items()},
        "ablation": ablation.intervals,
        "start": ablation.start,
    }
    write_json(output / "summary.json", summary)
    _plot(found, output / "recipes.png")
    return summary


class _Ablation(NamedTuple):
    """PPO for the mean and for CVaR from the same policy."""

    episodes: dict[str, list[Episodes]]  # of each seed, by arm
    intervals: Summary
    start: dict[str, float]  # the figures of the policy that both begin with


def _ablation(config: Config, arms: "_Study") -> _Ablation:
    """Train and drive both arms with every seed, and print the intervals."""
    begun = arms.start()
    results: dict[str, list[Episodes]] = {"mean": [], "cvar": []}
    for seed in range(config.seeds):
        for name, alpha in (("mean", 1.0), ("cvar", config.alpha)):
            _, episodes = arms.ppo(f"{name}_{seed}", config.ppo_steps, begun[0], alpha, seed)
            results[name].append(episodes)
    measures: dict[str, Callable[[Episodes], float]] = {
        "mean": lambda e: float(e["returns"].mean()),
        "cvar": lambda e: cvar(e["returns"], config.alpha),
        "per_10000_km": lambda e: float(1e4 * (e["violation"] > 0).sum() / e["km"].sum()),
    }
    intervals = paired_intervals(results, measures, config.resamples)
    titles = {
        "mean": "mean return",
        "cvar": f"CVaR_{config.alpha:g} of the return",
        "per_10000_km": "violations per 10,000 km",
    }
    print_intervals(
        intervals, titles,
        f"PPO of {config.ppo_steps:,} steps, {config.seeds} seeds, {config.roads} held-out roads, "
        "95 % intervals",
    )  # fmt: skip
    if not any((e["violation"] > 0).any() for runs in results.values() for e in runs):
        # No resample has an event that the sample has not: the interval [0, 0] says too much.
        km = float(results["mean"][0]["km"].sum())
        print(
            f"no violation in {km:.0f} km of roads: below {3e4 / km:.3g} per 10,000 km "
            "at 95 % confidence (rule of three)"
        )
    start = {name: measure(begun[1]) for name, measure in measures.items()}
    told = ", ".join(f"{titles[name]} {value:.3g}" for name, value in start.items())
    print(f"the policy that both begin with: {told}")
    return _Ablation(results, intervals, start)


class _Study:
    """Trains and drives arms; what is there already is read."""

    def __init__(self, config: Config, output: Path) -> None:
        self.config, self.output = config, output
        self.began = output / "first" / POLICY
        own = {f.name: getattr(config, f.name) for f in fields(ImitationConfig)}
        self.own = ImitationConfig(**own)

    def dagger(self, name: str, steps: int, teacher: str = "") -> tuple[Figures, Episodes]:
        """Return what a policy drives that a teacher taught for so many steps."""
        own = replace(self.own, total_steps=steps, teacher=teacher or self.own.teacher)
        return self._arm(name, lambda: train_imitation(own, self.output / name))

    def recurrent(self) -> tuple[Figures, Episodes]:
        """Return the same for the second teacher, which is trained where none was given."""
        folder = Path(self.config.recurrent or self.output / "teacher")
        if not self.config.recurrent and not (self.output / "recurrent" / POLICY).exists():
            train_driver(replace(TEACHER, seed=self.config.seed), folder)
        return self.dagger("recurrent", self.config.total_steps, str(folder))

    def ppo(
        self, name: str, steps: int, start: Path | None, alpha: float, seed: int
    ) -> tuple[Figures, Episodes]:
        """Return what a policy drives after so many steps of PPO."""
        own = replace(self.own, total_steps=steps, seed=seed)
        own_way: dict[str, Any] = {} if start else FROM_RANDOM_WEIGHTS
        ppo = replace(self.config.ppo, alpha=alpha, **own_way)
        return self._arm(name, lambda: train_ppo(own, ppo, self.output / name, start))

    def first(self) -> tuple[Figures, Episodes]:
        """Return what the DAgger before the PPO of dagger_ppo drives."""
        return self.dagger("first", self.config.total_steps - self.config.ppo_steps)

    def start(self) -> tuple[Path, Episodes]:
        """Return the file that the ablation begins with, and what it drives."""
        if not self.config.start:
            return self.began, self.first()[1]
        path = Path(self.config.start)
        return path, self._arm("start", lambda: load_policy(path))[1]

    def _arm(self, name: str, train: Callable[[], PolicyNet]) -> tuple[Figures, Episodes]:
        folder = self.output / name
        values, told = folder / "evaluation.npz", folder / "figures.json"
        if not told.exists():
            policy = train()
            record = drive_held_out(frame_driver(policy), self.config.roads, name, block=BLOCK)
            end = record.end
            km = (end["s"] - START) / 1000
            arrays = {"returns": end["base_return"], "violation": end["violation"], "km": km}
            text = json.dumps(figures(record).as_dict(), indent=1)
            with transaction(writable_folder(folder)) as files:
                write_arrays(files.path(values.name), arrays)
                files.path(told.name).write_text(text, encoding="utf-8")
        with fitting(told, "the figures of an arm"):
            return Figures(**read_json(told, dict)), read_arrays(values)


def _check(config: Config) -> None:
    """Refuse what cannot be done before anything is computed.

    Raises:
        InputError: An option is out of range.
    """
    check_episodes(config.roads, 1)
    for name in ("seeds", "resamples"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}={getattr(config, name)} must be at least 1")
    if not 0 < config.ppo_steps < config.total_steps:
        raise InputError(
            f"ppo_steps={config.ppo_steps} must be between 0 and total_steps={config.total_steps}"
        )
    check(replace(config, total_steps=config.total_steps - config.ppo_steps))
    for alpha in (1.0, config.alpha):
        check_ppo(
            replace(config, total_steps=config.ppo_steps, seed=config.seeds - 1),
            replace(config.ppo, alpha=alpha),
        )
    choose_teacher(config)
    if config.recurrent:
        choose_teacher(replace(config, teacher=config.recurrent))
    if config.start:
        load_policy(config.start)


def _plot(found: dict[str, Figures], path: Path) -> None:
    """Draw a bar for each recipe: offset, return of the worst, violations."""
    panels = (("cte_p95", "CTE P95 (m)"), ("return_cvar", "mean of the worst 5 % of returns (%)"),
              ("violations", "episodes with a violation"))  # fmt: skip
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots(1, len(panels))
    colours = [style["color"] for style in line_styles(found).values()]
    for axis, (name, words) in zip(axes, panels, strict=True):
        axis.bar(list(found), [getattr(f, name) for f in found.values()], color=colours)
        axis.set_ylabel(words)
        axis.tick_params(axis="x", rotation=20)
        if name in TARGETS and TARGETS[name][0]:
            axis.axhline(TARGETS[name][0], color="grey", linestyle=":")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


main = study(Config, run, resumes=True)

if __name__ == "__main__":
    main()
