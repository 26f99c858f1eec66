"""Ensembles of pi0 and pi0-FAST: one model a seed, filed under names that no two share."""

import shutil
from dataclasses import asdict
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from steerlab.agents.checkpoint import fitting, load_checkpoint, save_checkpoint
from steerlab.agents.pi0.model import Pi0, Pi0Config
from steerlab.agents.pi0_fast.model import Pi0Fast, Pi0FastConfig
from steerlab.agents.pi0_fast.tokenizer import FastTokenizer
from steerlab.agents.supervised import FitConfig, FitResult, Loss, TensorData, evaluate_loss, fit
from steerlab.errors import InputError
from steerlab.files import atomic_path, exclusive_text, writable_folder
from steerlab.readers.text import read_text

#: Kind of the checkpoints of single models, and the folder of their logs.
MEMBER, LOGS = "a pi0 or pi0-FAST", "logs"


def train_member(
    prefix: str,
    model: nn.Module,
    loss: Loss,
    sets: dict[str, TensorData],
    config: FitConfig,
    describe: dict[str, Any],
    output: Path,
    home: Path,
) -> Path:
    """Train one model of an ensemble and file its weights, log and curve under one name.

    A member that is complete is left alone.

    Args:
        prefix: What the names of the ensemble's files begin with.
        model: New network.
        loss: See :func:`steerlab.agents.supervised.fit`.
        sets: Data by name of the part, see ``data.SPLITS``.
        config: Options of the training.
        describe: What the network is rebuilt from.
        output: Folder of this run, where an interrupted one is taken up again.
        home: Folder of the ensemble, ``output`` or one above it; the three files go there.

    Returns:
        The path of the weights.
    """
    name = _claim_name(prefix, home, output)
    weights = home / "trained_models" / f"{name}.pth"
    console = Console()
    if weights.exists():
        console.print(f"{weights} is complete")
        return weights
    result = fit(
        model, loss, sets["training"], sets["validation"], config, output, describe=describe
    )
    figures = _figures(model, result, config, evaluate_loss(model, loss, sets["test"], config))
    table = Table("quantity", "value", title=name)
    for key, value in figures.items():
        table.add_row(key, str(value))
    console.print(table)
    with atomic_path(home / LOGS / f"{name}.txt") as temporary:
        temporary.write_text(_log(_claim(home, output), figures, result), encoding="utf-8")
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


def _figures(
    model: nn.Module, result: FitResult, config: FitConfig, test_loss: float
) -> dict[str, float]:
    losses = result.history[result.best_epoch]
    return {
        "seed": config.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "best epoch": result.best_epoch + 1,
        "epochs": len(result.history),
        "seconds": round(result.seconds, 1),
        "training loss": round(losses["train/loss"], 6),
        "validation loss": round(losses["valid/loss"], 6),
        "test loss": round(test_loss, 6),
    }


def _log(claim: str, figures: dict[str, float], result: FitResult) -> str:
    lines = [claim, *(f"{key}: {value}" for key, value in figures.items())]
    lines += ["", "epoch training validation learning_rate"]
    lines += [
        "{step} {train/loss:.6f} {valid/loss:.6f} {train/learning_rate:.3g}".format(**record)
        for record in result.history
    ]
    return "\n".join(lines) + "\n"


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
