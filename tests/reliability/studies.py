"""The long studies at their smallest, and what they need to begin with."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

#: Networks and drives so small that a study takes seconds.
FIT = ["epochs=3", "device=cpu"]
RL = ["total_steps=320", "num_envs=4", "episode_steps=40", "batch_size=80", "epochs=1"]
POLICY = [
    *("num_envs=2", "steps=30", "total_steps=180", "batch_size=4", "epochs=1", "film=0"),
    *("reduced=8", "hidden=8", "trunk=8"),
]
PPO = ["ppo.num_envs=2", "ppo.steps=30", "ppo.batch_size=4", "ppo.epochs=1", "ppo.critic_first=1"]
FILES = ["roads=2", "processes=1", "tinygrad=false"]
CONTROLLER = [
    *("plant=analytic", "segments=default", "train_count=8", "select_count=2", "report_first=10"),
    *("report_count=3", "rounds=1", "rollouts=6", "plant_epochs=1", "updates=4", "rows=8"),
    *("hidden=8", "evaluate_every=2", "processes=1", "salts=[other]"),
]


@dataclass(frozen=True)
class Case:
    """A study as it is run for the tests.

    Attributes:
        study: Module of ``steerlab.experiments``.
        options: Its options; ``{inputs}`` is the folder of :func:`make_inputs`.
        parallel: Options by which it uses processes, in place of those of the same name.
        folders: Folders of results in the working folder besides ``out``.
    """

    study: str
    options: list[str]
    parallel: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    def arguments(self, inputs: Path, parallel: bool = False) -> list[str]:
        options = [o.replace("{inputs}", str(inputs)) for o in self.options]
        if parallel:
            names = {o.partition("=")[0] for o in self.parallel}
            options = [o for o in options if o.partition("=")[0] not in names] + [*self.parallel]
        return [*options, "output=out"]


CASES = {
    "generate-lqr": Case(
        "generate_lqr", ["num_samples=60", "processes=1", "task=VanDerPol-v0", "num_steps=6",
                         "time_horizon=1.0"]
    ),
    "generate-pendulum-data": Case(
        "generate_pendulum_data", ["trajectories=20", "tokenizer=seed"]
    ),
    "train-trc": Case(
        "train_trc",
        ["data={inputs}/lqr/lqr_dataset.npz", "model=small", "hidden_dim=8", "latent_dim=8", *FIT],
    ),
    "finetune-trc": Case(
        "finetune_trc",
        ["checkpoint={inputs}/trc/best.pt", "cases=40", "test_cases=10", *FIT],
    ),
    "finetune-trc-ppo": Case(
        "finetune_trc",
        ["checkpoint={inputs}/trc/best.pt", "method=ppo", "ppo.total_plans=96", "ppo.num_envs=8",
         "ppo.batch_size=16", "ppo.epochs=1", "test_cases=10", "device=cpu"],
    ),
    "train-pi0": Case(
        "train_pi0", ["data={inputs}/pendulum", "width=8", "layers=1", "threads=1", *FIT]
    ),
    "train-pi0-fast": Case(
        "train_pi0_fast", ["data={inputs}/pendulum", "width=8", "layers=1", "threads=1", *FIT]
    ),
    "train-surrogate": Case(
        "train_surrogate",
        ["size=small", "batch_size=32", "warmup_steps=5", "drives=6", "validation=0.2",
         "export_onnx=false", *FIT],
    ),
    "train-surrogate-distil": Case(
        "train_surrogate",
        ["sources=[distil]", "teacher=analytic", "segments={inputs}/routes", "rollouts=6",
         "holdout_count=0", "validation=0.3", "processes=1", "predictions=10", "size=small",
         "export_onnx=false", "epochs=1", "device=cpu"],
        ("processes=2",),
    ),
    "train-tinyphysics-ppo": Case(
        "train_tinyphysics_ppo",
        ["total_steps=1000", "num_envs=1", "epochs=1", "num_segments=1", "hidden=8"],
    ),
    "train-tracking-ppo": Case(
        "train_tracking_ppo",
        ["total_steps=180", "num_envs=4", "batch_size=60", "epochs=1", "hidden=8", "cases=5"],
    ),
    "train-kinematic-driver": Case(
        "train_kinematic_driver",
        [*RL, "roads=3", "cell=gru", "hidden=8", "imitation=1", "alpha=0.5", "sampler=true"],
    ),
    "train-policynet": Case("train_policynet", [*POLICY, *FILES]),
    "train-policynet-ppo": Case("train_policynet", ["recipe=ppo", *POLICY, *PPO, *FILES]),
    "train-tinyphysics-controller": Case(
        "train_tinyphysics_controller", CONTROLLER, ("processes=2",)
    ),
    "train-tinyphysics-controller-cloning": Case(
        "train_tinyphysics_controller",
        ["recipe=cloning", "cloning.teacher=gradient", "cloning.identify=2", "cloning.rounds=2",
         "cloning.rollouts=2", "cloning.epochs=1", *CONTROLLER],
        ("processes=2",),
    ),
    "train-tinyphysics-controller-cma": Case(
        "train_tinyphysics_controller",
        ["recipe=cma", "cma.generations=3", "cma.population=4", "cma.routes=1", *CONTROLLER],
    ),
    "train-tinyphysics-controller-ppo": Case(
        "train_tinyphysics_controller",
        ["recipe=ppo", "ppo.total_steps=800", "ppo.num_envs=1", "ppo.epochs=1", "ppo.critic=8",
         "ppo.batch_size=200", *CONTROLLER],
    ),
    "trc-pipeline": Case(
        "trc_pipeline",
        ["task=VanDerPol-v0", "num_steps=6", "time_horizon=1.0", "num_samples=60", "num_tests=20",
         "epochs=1", "model=small", "device=cpu", "latency_seconds=0", "baselines=false"],
    ),
    "extract-segments": Case(
        "extract_segments",
        ["routes=[{inputs}/logs]", "processes=1", "min_seconds=25", "samples_path=samples"],
        ("processes=2",),
        ("samples",),
    ),
    "evaluate-pendulum": Case(
        "evaluate_pendulum",
        ["data={inputs}/pendulum", "pi0={inputs}/pi0", "episodes=3", "noises=[0.01]",
         "replans=[15]", "mlp_models=1", "mlp_epochs=1", "samples=2", "device=cpu"],
    ),
    "compare-cvar": Case(
        "compare_cvar", [*RL, "seeds=1", "roads=3", "resamples=20", "hidden=8", "imitation=0"]
    ),
    "compare-policynet": Case(
        "compare_policynet",
        [*POLICY[:2], "total_steps=120", "ppo_steps=60", *POLICY[3:5], *POLICY[6:], *PPO[:-1],
         "ppo.critic_first=0", "seeds=1", "roads=1", "resamples=20"],
    ),
    "train-driving": Case(
        "train_driving",
        ["dataset.train_path={inputs}/shards", "dataset.val_maps=[south]", "epochs=2",
         "batch_size=12", "checkpoint_interval=1", "log_interval=1", "device=cpu"],
    ),
    "train-driving-policy": Case(
        "train_driving",
        ["stage=all", "dataset.train_path={inputs}/shards", "dataset.val_maps=[south]", "epochs=1",
         "batch_size=12", "checkpoint_interval=2", "device=cpu", "policy.epochs=2",
         "policy.batch_size=16", "policy.reduced=8", "policy.hidden=8", "policy.trunk=8",
         "joint.epochs=1", "dagger.rounds=2", "dagger.scenario=[country_road]",
         "dagger.episodes=1", "dagger.steps=12"],
    ),
    "quickstart": Case(
        "quickstart",
        ["total_steps=180", "episodes=2", "tinygrad=false", "video=false", "processes=1"],
        ("processes=2",),
    ),
}  # fmt: skip


def make_small(put: Callable[[Any, str, Any], None]) -> None:
    """Shrink what no option shrinks; ``put`` sets an attribute of a module."""
    from steerlab.agents.policynet.train import ImitationConfig
    from steerlab.agents.recurrent_ppo import train
    from steerlab.agents.recurrent_ppo.train import DriverConfig
    from steerlab.agents.tinyphysics import cloning, exploration
    from steerlab.agents.tinyphysics.planners import GradientPlans
    from steerlab.agents.visionnet import network, training
    from steerlab.experiments import compare_policynet, quickstart, train_surrogate

    put(train, "ROWS", 8)
    mini = {"tiny": network.VisionSize((4, 4, 4, 4), (1, 1, 1, 1), 2, 4)}
    put(network, "SIZES", mini)
    put(training, "_SHOWN", 1)
    put(train, "PASSES", 1)
    put(exploration, "CHUNK", 3)
    put(cloning, "GradientPlans", partial(GradientPlans, horizon=2, iterations=1))
    put(train_surrogate, "_WATCHED", 1)
    put(train_surrogate, "_DRIVES", 3)
    teacher = DriverConfig(total_steps=80, num_envs=2, episode_steps=40, batch_size=80, hidden=8)
    put(compare_policynet, "TEACHER", teacher)
    small: dict[str, Any] = {"num_envs": 2, "steps": 30, "batch_size": 4, "epochs": 1.0, "film": 0}
    widths: dict[str, Any] = {"reduced": 8, "hidden": 8, "trunk": 8}
    put(quickstart, "QUICK", replace(ImitationConfig(), **small, **widths))


def make_inputs(folder: Path, run: Callable[[str, list[str], Path], None]) -> None:
    """Write what the studies begin with; ``run`` runs a study in a folder."""
    from steerlab.surrogates.segments.data import write_segment
    from steerlab.surrogates.segments.synthetic import synthetic_segment
    from tests.surrogates.logs.log_writer import Drive, log

    (folder / "routes").mkdir(parents=True)
    # In a process of its own: zarr's threads would not survive the forks of this one.
    command = [sys.executable, "-m", "tests.agents.visionnet.shards", str(folder / "shards")]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    for number in range(6):
        table = synthetic_segment(np.random.default_rng(number))
        write_segment(folder / f"routes/{number:05d}.csv", table)
    for minute in range(3):
        place = folder / f"logs/2024-01-02--03-04-05--{minute}"
        place.mkdir(parents=True)
        (place / "rlog").write_bytes(log(Drive(pressed=(30.0 + minute, 31.0 + minute))))
    run("generate_lqr", [*CASES["generate-lqr"].options, "output=lqr"], folder)
    small = [o.replace("{inputs}", str(folder)) for o in CASES["train-trc"].options]
    run("train_trc", [*small, "output=trc"], folder)
    run("generate_pendulum_data", ["trajectories=20", "tokenizer=seed", "output=pendulum"], folder)
    small = [o.replace("{inputs}", str(folder)) for o in CASES["train-pi0"].options]
    run("train_pi0", [*small, "output=pi0"], folder)
