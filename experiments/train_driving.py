"""Train a vision network and a driving policy on shards, for the files that openpilot loads.

stage=vision trains openpilot's vision heads, and with them the 512 features, on the labels of steerlab
collect. stage=joint goes on with a checkpoint=, while a policy learns from the features and shapes them.
stage=policy trains a policy on the features of a checkpoint=. stage=dagger runs dagger.rounds= rounds, in
which the pair of a checkpoint= drives and learns from the teacher's labels. stage=all runs one after the
other; joint and dagger only if joint.epochs and dagger.rounds are not 0. Stop with Ctrl-C, and the same command with the same output= continues with the
numbers of an uninterrupted run. The shards of dataset.test_path= are evaluated once, at the end: use maps
that were never trained on. On several GPUs: torchrun --nproc-per-node=N -m steerlab train-driving ... output=DIR.

Files: artifacts/checkpoints/epoch_NNNN.pt, figures.json, TensorBoard with pictures.

Examples:
  steerlab train-driving dataset.train_path=shards output=runs/mine
  steerlab train-driving --write-config my_run.yaml
  steerlab train-driving --config-name my_run epochs=5 output=runs/mine
  steerlab train-driving stage=policy checkpoint=runs/mine/artifacts/checkpoints/epoch_0020.pt
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from steerlab.agents.driving import load_driving, load_vision
from steerlab.agents.drivingpolicy.dagger import check_dagger, dagger_stage
from steerlab.agents.drivingpolicy.joint import JointOptions, check_joint, joint_stage
from steerlab.agents.drivingpolicy.network import Diffusion
from steerlab.agents.drivingpolicy.training import DaggerOptions, PolicyOptions, policy_stage
from steerlab.agents.training_loop import LAST
from steerlab.agents.visionnet import data, metrics
from steerlab.agents.visionnet.training import VisionTraining, check, train_vision
from steerlab.devices import torch_device
from steerlab.envs.shards.read import Shard
from steerlab.errors import InputError, unknown_name
from steerlab.files import atomic_path
from steerlab.options import option
from steerlab.processes import process_rank
from steerlab.study import study

STAGES = ("vision", "joint", "policy", "dagger", "all")
FIGURES = "figures.json"


@dataclass(frozen=True)
class ResumeOptions:
    """Options on runs that were stopped."""

    resume: bool = option(True, "continue the run in output=; false refuses a folder with a run")


@dataclass(frozen=True)
class Config(VisionTraining):
    """Options of the study."""

    stage: str = option("vision", "vision, joint, policy, dagger, or all (one after the other)")
    checkpoint: str = option("", "epoch_NNNN.pt to begin with: the weights of vision, the vision "
                             "network of stage=joint and policy, or the pair of stage=dagger; steerlab: the "
                             "pair of the package")  # fmt: skip
    joint: JointOptions = option(JointOptions(), "")
    policy: PolicyOptions = option(PolicyOptions(), "")
    diffusion: Diffusion = option(Diffusion(), "")
    dagger: DaggerOptions = option(DaggerOptions(), "")
    training: ResumeOptions = option(ResumeOptions(), "")
    processes: int = option(1, "processes that drive in the rounds of stage=dagger")
    threads: int = option(1, "threads of torch")


Shards = tuple[list[Shard], list[Shard], list[Shard]]


def run(config: Config, output: Path) -> Path:
    """Train the stages that are asked for, judge the result; return the checkpoint."""
    if config.stage not in STAGES:
        raise unknown_name("stage", config.stage, STAGES)
    check(config)
    if not config.training.resume and (output / LAST).exists():
        raise InputError(
            f"{str(output)!r} holds a run and training.resume=false: choose another output="
        )
    if config.stage in ("joint", "policy", "dagger") and not config.checkpoint:
        raise InputError(f"stage={config.stage} needs checkpoint= with a trained vision network")
    if config.stage in ("joint", "all"):
        check_joint(config.joint, at_least=int(config.stage == "joint"))
    if config.stage in ("dagger", "all"):
        check_dagger(config.dagger, at_least=int(config.stage == "dagger"))
    torch.set_num_threads(config.threads)
    start = load_driving(config.checkpoint) if config.checkpoint else None
    console = Console(quiet=process_rank() > 0)
    train, valid, test = _shards(config, console)
    if config.stage in ("joint", "policy", "dagger"):
        path = Path(config.checkpoint)
    else:
        vision, policy = (start[n] if start else None for n in ("vision", "policy"))
        path = train_vision(config, train, valid, output, vision, policy)
    if process_rank():
        return path
    if config.stage in ("joint", "all") and config.joint.epochs:
        design = config.policy, config.diffusion
        path = joint_stage(config, config.joint, design, path, train, valid, output)
    if config.stage in ("vision", "joint", "all"):
        _report(config, path, {"validation": valid, "test": test}, output, console)
    if config.stage in ("policy", "all"):
        path = policy_stage(config, path, train, valid, output)
    if config.stage in ("dagger", "all") and config.dagger.rounds:
        path = dagger_stage(config, path, train, valid, output)
    console.print(f"checkpoint: {path}", soft_wrap=True)
    console.print(f"curves and pictures: tensorboard --logdir {output}", soft_wrap=True)
    return path


def _shards(config: Config, console: Console) -> Shards:
    """Return the shards for training, validation and test; say which are left out."""
    options = config.dataset
    train, bad = data.find(options.train_path, "dataset.train_path")
    if options.val_path:
        valid, more = data.find(options.val_path, "dataset.val_path")
        bad += more
    elif options.val_maps:
        train, valid = data.split_by_map(train, options.val_maps)
    else:
        train, valid = data.split_by_episode(train, options.val_share)
    test: list[Shard] = []
    if options.test_path:
        test, more = data.find(options.test_path, "dataset.test_path")
        bad += more
    for line in bad:
        console.print(f"left out: {line}", markup=False, soft_wrap=True)
    sets = {"training": train, "validation": valid, "test": test}
    for name, shards in ((n, s) for n, s in sets.items() if s):
        maps = sorted({str(shard.attributes["map"]) for shard in shards})
        frames = sum(shard.frames for shard in shards)
        console.print(f"{name}: {len(shards)} episodes, {frames:,} frames; {', '.join(maps)}")
    return train, valid, test


def _report(
    config: Config,
    checkpoint: Path,
    sets: dict[str, list[Shard]],
    output: Path,
    console: Console,
) -> None:
    """Print how far the network is from the labels of each set, and write it."""
    network = load_vision(checkpoint, torch_device(config.device))
    found = {}
    for name, shards in sets.items():
        if shards:
            found[name] = judge_shards(network, shards, config.val_batch_size, config.likelihood)
            console.print(metrics.table(found[name], f"{name}, {checkpoint.name}"))
    with atomic_path(output / FIGURES) as temporary:
        temporary.write_text(json.dumps(_finite(found), indent=1), encoding="utf-8")


def judge_shards(
    network: Any, shards: Sequence[Shard], batch_size: int, likelihood: str = "laplace"
) -> dict[str, dict[str, float]]:
    """Return the figures of a network and of the baselines on all frames of shards."""
    pairs = data.FramePairs(shards)
    frames = data.loader(pairs, data.in_order(pairs, batch_size), 0)
    return metrics.judge(network, frames, likelihood)


def _finite(values: Any) -> Any:
    """Return nested figures with None for NaN, which JSON does not know."""
    if isinstance(values, dict):
        return {name: _finite(value) for name, value in values.items()}
    return values if math.isfinite(values) else None


FREE = ("training", "num_workers", "val_batch_size", "cache", "processes", "threads")
main = study(Config, run, resumes=True, free=FREE)

if __name__ == "__main__":
    main()
