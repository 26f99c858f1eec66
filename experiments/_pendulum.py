"""What the studies of the inverted pendulum share: pairs, episodes, and their figures."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from steerlab.agents.checkpoint import fitting, load_checkpoint, save_checkpoint
from steerlab.agents.pi0.model import Pi0, Pi0Config, Pi0Sampler, antithetic
from steerlab.agents.pi0_fast.model import ChunkDecoder, Pi0Fast, Pi0FastConfig, stratified
from steerlab.agents.pi0_fast.tokenizer import FastTokenizer
from steerlab.agents.supervised import FitConfig, Loss, TensorData, evaluate_loss, fit
from steerlab.envs.inverted_pendulum.env import InvertedPendulumVectorEnv, at_goal
from steerlab.errors import InputError
from steerlab.exporters.onnx import export_onnx
from steerlab.files import atomic_path, exclusive_text, writable_folder
from steerlab.options import option
from steerlab.readers.arrays import read_arrays, require, write_arrays
from steerlab.readers.text import read_text

Array = NDArray[Any]
CHUNK = 50
#: Kind of the checkpoints of single models, and the folder of their logs.
MEMBER, LOGS = "a pi0 or pi0-FAST", "logs"
TASKS = ("balance", "goals")
SPLITS = ("training", "validation", "test")
#: Where the experts of task=goals go, m, and the costs that their feedback comes from.
GOALS = (-1.5, 1.5)
GOAL_COST = (0.1, 1.0, 0.03, 0.05)
#: Half-widths of the start in every component: of these experts, and of who is to do as they do.
EXPERT_START, GOAL_START = 0.2, 0.05
#: What blocks the middle of the rail: half-width in m, first step.
OBSTACLE = (0.5, 40)


@dataclass(frozen=True)
class Run:
    """Episodes that were played to the end.

    Attributes:
        states: (N, T + 1, 4), the true ones; after an early end they are of no meaning.
        actions: (N, T).
        steps: (N,), how many steps the episode had.
        survived: (N,), whether the episode was within the limits throughout.
    """

    states: Array
    actions: Array
    steps: Array
    survived: Array

    def during(self) -> Array:
        """Tell which states (N, T) before an action belong to the episode."""
        return np.asarray(np.arange(self.actions.shape[1]) < self.steps[:, None])


def play(
    env: InvertedPendulumVectorEnv,
    act: Callable[[Array], Array],
    seed: int,
    start: Array | None = None,
) -> Run:
    """Play one episode in every row.

    Rows whose episode ends early stay in the batch, and begin another; it counts for nothing.

    Args:
        env: Task over N rows.
        act: Maps observations (N, 4) to actions (N,); called once a step.
        seed: Of the reset; row i has the start and the noise of ``seed + i``.
        start: States (N, 4) to start from, in place of the drawn ones.
    """
    observations, info = env.reset(seed=seed, options={} if start is None else {"state": start})
    states, actions = [info["state"]], []
    survived = np.ones(env.num_envs, dtype=bool)
    steps = np.zeros(env.num_envs, dtype=int)
    assert env.max_episode_steps is not None
    for _ in range(env.max_episode_steps):
        steps += survived
        action = act(observations)
        observations, _, terminated, _, info = env.step(action.astype(np.float32)[:, None])
        survived &= ~terminated
        states.append(info["state"])
        actions.append(action)
    return Run(np.stack(states, axis=1), np.stack(actions, axis=1), steps, survived)


def consecutive(mask: Array, length: int = 10) -> Array:
    """Return where in each row of (N, T) the first ``length`` Trues in sequence start, else -1."""
    windows = np.lib.stride_tricks.sliding_window_view(mask, length, axis=1).all(axis=-1)
    found: Array = np.any(windows, axis=1)
    return np.where(found, windows.argmax(axis=1), -1)


def reached(run: Run, goals: Array) -> Array:
    """Tell which episodes (N,) end well: inside the limits, the last 20 steps at a goal.

    Args:
        run: Episodes.
        goals: Places of which any will do, (G,), or one for each episode, (N, 1, 1).
    """
    return np.asarray(run.survived & at_goal(run.states[:, -20:], goals).all(axis=1))


def save_arrays(path: Path, **arrays: Array) -> None:
    """Write arrays to a compressed npz file, whole or not at all."""
    write_arrays(path, arrays, compressed=True)


@dataclass(frozen=True)
class Pairs:
    """States and what to do from them, by part of the split.

    Attributes:
        states: (N, 4).
        targets: Chunks (N, 50) or token sequences (N, L).
        split: (N,), 0 train, 1 validation, 2 test.
    """

    states: Array
    targets: Array
    split: Array

    def part(self, name: str) -> tuple[Array, Array]:
        """Return states and targets of one of :data:`SPLITS`."""
        rows = self.split == SPLITS.index(name)
        return self.states[rows], self.targets[rows]


def load_pairs(folder: str | Path, kind: str) -> Pairs:
    """Read what generate-pendulum-data wrote.

    Args:
        folder: Its output folder.
        kind: ``original`` for chunks or ``fast`` for tokens.

    Raises:
        InputError: The file is missing, damaged, or lacks an array.
    """
    path = Path(folder, f"training_pairs_{kind}.npz")
    if not path.is_file():
        raise InputError(
            f"there is no {str(path)!r}; write it with steerlab generate-pendulum-data "
            "output=FOLDER and pass data=FOLDER"
        )
    target = "action_chunk" if kind == "original" else "token_seq"
    states, targets, split = require(read_arrays(path), ("state", target, "split"), path)
    count, kinds = len(split), "f" if kind == "original" else "iu"
    if (
        states.shape != (count, 4)
        or targets.ndim != 2
        or len(targets) != count
        or split.dtype.kind not in "iu"
        or states.dtype.kind != "f"
        or targets.dtype.kind not in kinds
        or not np.isfinite(states).all()
        or not np.isfinite(targets).all()
    ):
        raise InputError(
            f"{str(path)!r} holds no pairs: state {states.dtype} {states.shape}, {target} "
            f"{targets.dtype} {targets.shape}, split {split.dtype} {split.shape}; make it again"
        )
    return Pairs(states, targets, split)


def train_member(
    prefix: str,
    model: nn.Module,
    loss: Loss,
    sets: dict[str, TensorData],
    config: FitConfig,
    describe: dict[str, Any],
    output: Path,
) -> Path:
    """Train one model of an ensemble and file its weights, log and curve under one name.

    The run itself lives in ``output``, where an interrupted one is taken up again. The three files
    go to the folder that all jobs of a ``--multirun`` share. A member that is complete is left alone.

    Returns:
        The path of the weights.
    """
    multirun = HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
    home = output.parent if multirun else output
    name = _claim_name(prefix, home, output)
    weights = home / "trained_models" / f"{name}.pth"
    console = Console()
    if weights.exists():
        console.print(f"{weights} is complete")
        return weights
    result = fit(
        model, loss, sets["training"], sets["validation"], config, output, describe=describe
    )
    test_loss = evaluate_loss(model, loss, sets["test"], config)
    losses = result.history[result.best_epoch]
    figures = {
        "seed": config.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "best epoch": result.best_epoch + 1,
        "epochs": len(result.history),
        "seconds": round(result.seconds, 1),
        "training loss": round(losses["train/loss"], 6),
        "validation loss": round(losses["valid/loss"], 6),
        "test loss": round(test_loss, 6),
    }
    table = Table("quantity", "value", title=name)
    for key, value in figures.items():
        table.add_row(key, str(value))
    console.print(table)
    lines = [_claim(home, output), *(f"{key}: {value}" for key, value in figures.items())]
    lines += ["", "epoch training validation learning_rate"]
    lines += [
        "{step} {train/loss:.6f} {valid/loss:.6f} {train/learning_rate:.3g}".format(**record)
        for record in result.history
    ]
    with atomic_path(home / LOGS / f"{name}.txt") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with atomic_path(writable_folder(home / "loss_pics") / f"{name}.png") as temporary:
        shutil.copyfile(output / "training_curves.png", temporary)
    contents = {
        "model": result.best,
        "describe": describe,
        "config": asdict(config),
        "figures": figures,
    }
    writable_folder(weights.parent)
    save_checkpoint(weights, MEMBER, contents)  # last: a member with weights is complete
    return weights


def _claim(home: Path, output: Path) -> str:
    """Return the first line of the log of the run in ``output``."""
    return f"folder: {output.relative_to(home)}"


def _claim_name(prefix: str, home: Path, output: Path) -> str:
    """Return the name of this run: that of its first start, which no other run has."""
    logs, claim = writable_folder(home / LOGS), _claim(home, output)
    for log in sorted(logs.glob(f"{prefix}_*.txt")):
        if read_text(log).partition("\n")[0] == claim:
            return log.stem
    stem = f"{prefix}_{datetime.now():%Y%m%d_%H%M}"
    for number in count(1):
        name = stem if number == 1 else f"{stem}_{number}"
        if exclusive_text(logs / f"{name}.txt", claim + "\n"):
            return name
    raise AssertionError


@dataclass(frozen=True)
class Sampling:
    """Options of studies that draw chunks from trained models."""

    pi0: str | None = option(None, "folder of a pi0 ensemble (output= of train-pi0)")
    pi0_fast: str | None = option(None, "folder of a pi0-FAST ensemble")
    steps: int = option(3, "Euler steps of pi0")
    samples: int = option(16, "chunks of pi0 that make a consensus")
    sequences: int = option(16, "sequences of pi0-FAST that make a consensus; 1 = likeliest token")
    longest: int = option(14, "tokens after which pi0-FAST ends a sequence; the rest is zeros")
    seed: int = option(0, "seed of whatever is drawn")


def load_members(folder: str | Path, prefix: str, device: torch.device) -> dict[str, Pi0 | Pi0Fast]:
    """Return the models of an ensemble by name, in the order of their names.

    Args:
        folder: The output folder of the training.
        prefix: ``tinypi0_`` or ``tinypi0fast_``.
        device: Where they compute.

    Raises:
        InputError: There is none, or a file is no such model.
    """
    paths = sorted(Path(folder, "trained_models").glob(f"{prefix}*.pth"))
    if not paths:
        raise InputError(
            f"{str(folder)!r} has no trained_models/{prefix}*.pth; give the output folder of "
            f"steerlab train-{'pi0' if prefix == 'tinypi0_' else 'pi0-fast'}"
        )
    return {path.stem: load_model(path, device) for path in paths}


def load_model(path: Path, device: torch.device) -> Pi0 | Pi0Fast:
    """Rebuild the pi0 or pi0-FAST that a training wrote, ready to draw from."""
    contents = load_checkpoint(path, MEMBER, device)
    with fitting(path, "a pi0 or pi0-FAST of this version"):
        describe = contents["describe"]
        model: Pi0 | Pi0Fast
        if describe["kind"] == "pi0":
            model = Pi0(Pi0Config(**describe["model"]))
        else:
            tokenizer = FastTokenizer.from_dict(describe["tokenizer"])
            model = Pi0Fast(tokenizer, Pi0FastConfig(**describe["model"]))
        model.load_state_dict(contents["model"])
    return model.to(device).eval()


def members_of(sampling: Sampling, device: torch.device) -> dict[str, dict[str, Pi0 | Pi0Fast]]:
    """Return the ensembles of the folders that are given, by kind and name of the model."""
    folders = (
        ("pi0", sampling.pi0, "tinypi0_"),
        ("pi0-FAST", sampling.pi0_fast, "tinypi0fast_"),
    )
    return {
        kind: load_members(folder, prefix, device) for kind, folder, prefix in folders if folder
    }


def sampler_of(model: Pi0 | Pi0Fast, sampling: Sampling) -> Pi0Sampler | ChunkDecoder:
    """Return what draws the chunks of a trained model."""
    if isinstance(model, Pi0):
        return Pi0Sampler(model, sampling.steps, sampling.samples).eval()
    return ChunkDecoder(model, sampling.sequences, sampling.longest).eval()


def chunk_policy(
    model: nn.Module, sampling: Sampling, device: torch.device
) -> Callable[[Array], Array]:
    """Return the model as a map from states (N, 4) to chunks (N, H), with noise of its own."""
    rng = np.random.default_rng(sampling.seed)
    policy = sampler_of(model, sampling) if isinstance(model, Pi0 | Pi0Fast) else model
    policy = policy.to(device).eval()

    @torch.no_grad()
    def chunks(states: Array) -> Array:
        inputs = [torch.as_tensor(states, dtype=torch.float32, device=device)]
        if isinstance(policy, Pi0Sampler | ChunkDecoder):
            inputs.append(randomness(policy, len(states), rng).to(device))
        return np.asarray(policy(*inputs).double().cpu().numpy())

    return chunks


def randomness(
    policy: Pi0Sampler | ChunkDecoder, count: int, rng: np.random.Generator
) -> torch.Tensor:
    """Return what ``policy`` takes beside ``count`` states."""
    if isinstance(policy, Pi0Sampler):
        return antithetic(count, policy.samples, policy.model.config.horizon, rng)
    return stratified(count, policy.samples, policy.longest, rng)


def export_sampler(
    policy: Pi0Sampler | ChunkDecoder, path: Path, rng: np.random.Generator
) -> float:
    """Write ``policy`` to an ONNX file, its loop and consensus included.

    Inputs are state (B, 4) and noise (B, samples, H), or for pi0-FAST uniform numbers
    (B, sequences, longest); the output is chunk (B, H).

    Returns:
        The largest difference between torch and onnxruntime on states near balance.
    """
    states = torch.as_tensor(rng.uniform(-0.2, 0.2, (2, 4)), dtype=torch.float32)
    example = (states, randomness(policy, 2, rng))
    # From version 20 on GELU is one operation.
    return export_onnx(policy, example, path, ["state", "noise"], ["chunk"], opset=20)
