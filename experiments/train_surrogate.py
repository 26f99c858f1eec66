"""Train a plant with comma's signature and export it as an ONNX file that tinyphysics.py loads.

The data come from one or more sources=[...]:

  synthetic   drives of simulated cars (no download; the data of the bundled default plant)
  distil      a teacher's own predictions while many controllers drive it (teacher=, segments=)
  segments    public routes: the first 100 rows, where the logged steer is known (segments=)
  extracted   the files of `steerlab extract-segments` in samples_path=

Routes are split into training and validation by name. Of comma's data, the routes holdout_first to
holdout_first + holdout_count are in neither. You may interrupt the command at any time: the same
command with the same output= continues, and ends with the same plant as an uninterrupted run.

Examples:
  steerlab train-surrogate
  steerlab train-surrogate sources=[distil] teacher=comma segments=comma
  steerlab train-surrogate sources=[extracted] samples_path=tinyphysics_segments size=small
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from steerlab.agents.supervised import FitConfig, FitResult, fit
from steerlab.agents.tinyphysics.closed_loop import pid_in_plant
from steerlab.agents.tinyphysics.exploration import Exploration, explore
from steerlab.errors import InputError, unknown_name
from steerlab.experiments.compare_surrogates import choose, compare, show
from steerlab.exporters.plant import OPSET, export_plant, onnx_file
from steerlab.files import writable_folder, write_json
from steerlab.options import option
from steerlab.seeds import initial_weights
from steerlab.study import study
from steerlab.surrogates.plants.architectures import build
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.plants.onnx import OnnxPlant
from steerlab.surrogates.segments.data import Segments
from steerlab.surrogates.segments.synthetic import find_segments
from steerlab.surrogates.simulated_cars import synthetic_drives
from steerlab.surrogates.training.dataset import (
    Sequences,
    from_labels,
    from_segments,
    join,
    next_token_loss,
    split_windows,
)

SOURCES = ("synthetic", "distil", "segments", "extracted")
_WATCHED = 20  # routes of the closed loop that is watched during training
_DRIVES = 200  # synthetic drives made at once


@dataclass(frozen=True)
class Config(FitConfig):
    """Options of the study."""

    sources: list[str] = option(["synthetic"], "synthetic, distil, segments, extracted, or several")
    architecture: str = option("gru", "gru (recurrent) or tcn (dilated convolutions)")
    size: str = option("medium", "small, medium or large")
    drives: int = option(2400, "number of synthetic drives, 50 s each")
    teacher: str = option("comma", "plant to distil: comma, or an ONNX file")
    segments: str = option("comma", "routes that the teacher drives: comma, or a folder or zip")
    rollouts: int = option(4000, "number of the teacher's drives, 50 s each")
    samples_path: str | None = option(None, "folder of extracted segments")
    lataccel: str = option("actual", "lataccel of extracted segments: actual (measured) or target")
    holdout_first: int = option(400, "number of the first held-out route of segments=")
    holdout_count: int = option(
        100, "number of held-out routes, on which the plant is evaluated at the end; 0 = none"
    )
    validation: float = option(0.05, "share of the routes kept for validation")
    predictions: int = option(25, "predictions in each training window")
    processes: int = option(0, "processes that run the teacher; 0 = one per core")
    export_onnx: bool = option(True, "write the ONNX file")
    onnx_path: str | None = option(
        None, "path of the ONNX file, or its folder; by default the output folder"
    )
    onnx_opset: int = option(OPSET, "version of the ONNX operator set")
    epochs: int = option(10, "largest number of epochs (passes over the training data)")
    batch_size: int = option(64, "windows in each gradient step")
    learning_rate: float = option(4e-3, "largest learning rate of AdamW")
    weight_decay: float = option(1e-4, "decoupled weight decay")
    warmup_steps: int = option(200, "steps over which the learning rate rises linearly")


def run(config: Config, output: Path) -> FitResult:
    """Collect the data, train, export and compare."""
    _check(config, output)
    routes, held = _routes(config)
    sequences = _collect(config, output, routes)
    train, valid = split_windows(sequences, config.validation, config.predictions, config.seed)
    with initial_weights(config.seed):
        model = build(config.architecture, config.size)
    sample = next(s for s in sequences if len(s))
    model.fit_normaliser(torch.as_tensor(sample.states), torch.as_tensor(sample.tokens).long())
    weights = sum(p.numel() for p in model.parameters())
    Console().print(
        f"{len(train):,} windows of {config.predictions} predictions to train on, {len(valid):,} "
        f"single ones to validate, {weights:,} weights"
    )
    describe = {"architecture": config.architecture, "size": config.size}
    teacher = config.teacher if "distil" in config.sources else None
    watched = (find_segments("default") if routes is None else routes)[:_WATCHED]
    closed_loop = pid_in_plant(watched, teacher)
    result = fit(model, next_token_loss, train, valid, config, output, closed_loop, describe)
    model.cpu()
    _print_result(result)
    if config.export_onnx:
        path = onnx_file(config.onnx_path, output)
        export_plant(model, path, config, config.onnx_opset)
        print(f"plant:   {path} ({path.stat().st_size / 1e6:.2f} MB)")
        if held is not None:
            figures, _ = compare(
                load_plant(config.teacher, "fast"), {str(path): OnnxPlant(path)}, held
            )
            show(figures, f"pid on {len(held)} routes that were kept out")
            write_json(output / "comparison.json", [asdict(f) for f in figures])
    print(f"curves:  {output / 'training_curves.png'}")
    return result


def _check(config: Config, output: Path) -> None:
    for source in config.sources:
        if source not in SOURCES:
            raise unknown_name("source", source, SOURCES)
    if not config.sources:
        raise InputError(f"sources=[] names no data; choose from {', '.join(SOURCES)}")
    if "extracted" in config.sources and not config.samples_path:
        raise InputError("sources=[extracted] needs samples_path=, see steerlab extract-segments")
    for name, least in (("drives", 2), ("rollouts", 2), ("predictions", 1), ("processes", 0)):
        if getattr(config, name) < least:
            raise InputError(f"{name}={getattr(config, name)} must be at least {least}")
    if not 0 < config.validation < 1:
        raise InputError(f"validation={config.validation} must be between 0 and 1")
    model = build(config.architecture, config.size)
    if config.export_onnx:
        onnx_file(config.onnx_path, output)
        if config.onnx_opset != OPSET:  # tried out now, not after the training
            with TemporaryDirectory() as folder:
                export_plant(model.eval(), Path(folder, "plant.onnx"), config, config.onnx_opset)


def _routes(config: Config) -> tuple[Segments | None, Segments | None]:
    """Return the public routes to learn from and those that are kept out."""
    if not {"distil", "segments"} & set(config.sources):
        return None, None
    segments = find_segments(config.segments)
    if not config.holdout_count:
        return segments, None
    held = choose(segments, config.holdout_first, config.holdout_count)
    chosen = [i for i, name in enumerate(segments.names) if name not in set(held.names)]
    if len(chosen) < 2:
        raise InputError(
            "holdout_first and holdout_count leave fewer than two routes to learn from"
        )
    return segments[chosen], held


def _collect(config: Config, output: Path, routes: Segments | None) -> list[Sequences]:
    """Return the sequences of every source."""
    found = []
    for source in config.sources:
        if source == "synthetic":
            seeds = np.random.SeedSequence(config.seed).generate_state(-(-config.drives // _DRIVES))
            counts = [min(_DRIVES, config.drives - i * _DRIVES) for i in range(len(seeds))]
            found.append(
                join([synthetic_drives(n, int(s)) for n, s in zip(counts, seeds, strict=True)])
            )
        elif source == "distil":
            assert routes is not None
            folder = writable_folder(output / "teacher")
            exploration = Exploration(config.teacher, routes, config.rollouts, config.seed)
            processes = config.processes or os.cpu_count() or 1
            paths = explore(exploration, folder, processes)
            found.append(join([Sequences.load(path) for path in paths]))
        elif source == "segments":
            assert routes is not None
            found.append(from_segments(routes))
        else:
            assert config.samples_path is not None
            found.append(from_labels(config.samples_path, config.lataccel))
    return found


def _print_result(result: FitResult) -> None:
    best = result.history[result.best_epoch]
    table = Table("figure", "value", title=f"best epoch: {result.best_epoch + 1}", box=None)
    for name, label in (
        ("valid/loss", "divergence from the labels, nats"),
        ("valid/nll", "NLL of the labels, nats"),
        ("valid/top1", "likeliest bins that agree"),
        ("valid/pid_total_cost", "total_cost of pid"),
        ("valid/pid_to_teacher", "its ratio to the teacher's"),
    ):
        if name in best:
            table.add_row(label, f"{best[name]:.4f}")
    table.add_row("minutes of training", f"{result.seconds / 60:.1f}")
    Console().print(table)


main = study(Config, run, resumes=True)

if __name__ == "__main__":
    main()
