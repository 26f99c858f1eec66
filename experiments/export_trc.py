"""Export a planner of train-trc to files that need no steerlab: ONNX, and a tinygrad pickle.

checkpoint= is a best.pt of train-trc or finetune-trc, or its folder; '' = that of the last train-trc.
onnx= and tinygrad= are paths; '' puts the files into output=, and tinygrad=none leaves the pickle out.
Inputs: initial_state (B, 2), target_state (B, 2) and remaining (B,), the steps that are left, all
float32. Output: controls (B, T, 1). The ONNX file accepts any B (rows= fixes it), the pickle one plan
per call. Both are compared with torch before they are saved, and then plan test cases. The metadata of
the ONNX file hold the problem and the network as JSON, and the checkpoint that the weights are from.

Examples:
  steerlab export-trc checkpoint=runs/trc/medium
  steerlab export-trc checkpoint=runs/trc/medium/best.pt onnx=planner.onnx opset=20 tinygrad=none
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from steerlab.agents.trc.data import PlanData
from steerlab.agents.trc.evaluate import judge, optimal_cases
from steerlab.agents.trc.model import Planner
from steerlab.agents.trc.train import load_planner
from steerlab.errors import InputError
from steerlab.exporters.planner import check_exportable, export_planner
from steerlab.exporters.planner_pickle import pickle_planner
from steerlab.files import writable_folder
from steerlab.openpilot.engines import session
from steerlab.openpilot.tinygrad import check_tinygrad_path, missing_compiler
from steerlab.options import option
from steerlab.study import latest_result, study
from steerlab.tables import percent


@dataclass(frozen=True)
class Config:
    """Options of export-trc."""

    checkpoint: str = option("", "checkpoint of a planner or its folder; '' = the last train-trc's")
    onnx: str = option("", "path of the ONNX file; '' = output=/<folder of the checkpoint>.onnx")
    tinygrad: str = option(
        "", "path of the tinygrad pickle; '' = beside the ONNX file; none = no pickle"
    )
    tinygrad_path: str = option("", "folder of the target's tinygrad; '' takes the installed one")
    opset: int = option(18, "version of the ONNX operator set")
    rows: int = option(0, "plans per call of the ONNX file; 0 = any number")
    cases: int = option(1000, "test cases of seed 123 that the ONNX file plans; 0 = none")


def run(config: Config, output: Path) -> dict[str, float]:
    """Export; return the largest difference to torch by the name of the file."""
    _check(config)
    source = Path(config.checkpoint or latest_result("train_trc", "best.pt")).expanduser()
    source = source / "best.pt" if source.is_dir() else source
    model = load_planner(source)
    check_exportable(model)
    graph = Path(config.onnx) if config.onnx else output / f"{source.resolve().parent.name}.onnx"
    writable_folder(graph.parent)
    found = {
        graph.name: export_planner(
            model, graph, rows=config.rows or None, opset=config.opset, source=_source(source)
        )
    }
    files = [graph]
    if config.tinygrad != "none":
        beside = graph.with_name(f"{graph.stem}_tinygrad.pkl")
        pickled = Path(config.tinygrad) if config.tinygrad else beside
        writable_folder(pickled.parent)
        found[pickled.name] = pickle_planner(
            model, pickled, opset=config.opset, tinygrad_path=config.tinygrad_path or None
        )
        files.append(pickled)
    _report(files, found)
    if config.cases:
        _plan_cases(model, graph, config)
    return found


def _check(config: Config) -> None:
    """Refuse what is wrong before anything is exported."""
    for name in ("rows", "cases"):
        if getattr(config, name) < 0:
            raise InputError(f"{name}={getattr(config, name)} must not be negative")
    if config.opset < 18:
        raise InputError(f"opset={config.opset} must be at least 18, which torch writes")
    if config.tinygrad != "none":
        if missing := missing_compiler():
            raise InputError(f"{missing}; or give tinygrad=none")
        if config.tinygrad_path:
            check_tinygrad_path(config.tinygrad_path)


def _source(path: Path) -> str:
    """Return which checkpoint it was: folder, name and the start of its SHA-256."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return f"{path.resolve().parent.name}/{path.name} {digest}"


def _report(files: list[Path], found: dict[str, float]) -> None:
    table = Table("file", "KiB", "difference to torch", title="exported", title_justify="left")
    for path in files:
        table.add_row(path.name, f"{path.stat().st_size / 1024:,.0f}", f"{found[path.name]:.1e}")
    console = Console()
    console.print(table)
    for path in files:
        console.print(f"[bold]{path}[/]", highlight=False, soft_wrap=True)


def _plan_cases(model: Planner, path: Path, config: Config) -> None:
    """Print what the plans of the file cost above the optimum, beside those of torch."""
    data = optimal_cases(model.problem, config.cases, 123)
    table = Table("plans of", "gap of means", "mean gap", "success", title_justify="left")
    table.title = f"{config.cases:,} test cases"
    initial, targets = data.arrays["initial_states"], data.arrays["target_states"]
    for name, controls in (
        ("torch", model.plan(initial, targets)),
        ("ONNX file", _plans(path, data, config.rows)),
    ):
        r = judge(data, model.problem.clip(controls))
        table.add_row(
            name, percent(r["gap_of_means"]), percent(r["gap_mean"]), percent(r["success"], 1)
        )
    Console().print(table)


def _plans(path: Path, data: PlanData, rows: int) -> np.ndarray:
    """Return the plans (N, T, 1) of the file, ``rows`` a call; the last call is filled up."""
    runtime, count = session(path), len(data)
    feed = {
        "initial_state": data.arrays["initial_states"],
        "target_state": data.arrays["target_states"],
        "remaining": np.full(count, data.problem.steps),
    }
    size = rows or count
    parts = []
    for first in range(0, count, size):
        chosen = np.minimum(np.arange(first, first + size), count - 1)
        part = {name: values[chosen].astype(np.float32) for name, values in feed.items()}
        parts.append(runtime.run(None, part)[0])
    return np.concatenate(parts)[:count].astype(np.float64)


main = study(Config, run)

if __name__ == "__main__":
    main()
