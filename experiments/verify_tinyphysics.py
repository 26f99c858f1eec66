"""Compare the costs of each runtime with known official ones, digit by digit.

Reads a CSV with columns route, controller, lataccel_cost, jerk_cost, total_cost (every digit), drives
each of its routes, and counts the rollouts whose three costs are equal to the last digit. In the other
rollouts a last-bit difference of the logits, which depends on the processor and the version of
onnxruntime, has changed a draw; for them the largest difference of the total cost is printed. Then
`fast` is compared with `exact` on all segments. Ends with an error if `exact` differs anywhere.

Example:
  steerlab verify-tinyphysics plant=comma segments=comma expected=expected_costs.csv
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from steerlab.agents.classical.comma import controller_factory
from steerlab.envs.tinyphysics.reward import Costs
from steerlab.envs.tinyphysics.rollout import evaluate
from steerlab.errors import InputError
from steerlab.options import option
from steerlab.study import study
from steerlab.surrogates.segments.data import Segments
from steerlab.surrogates.segments.synthetic import find_segments

_COLUMNS = ["route", "controller", *Costs._fields]


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    expected: str = option("expected_costs.csv", "CSV of official costs")
    plant: str = option("comma", "comma, or the path of comma's ONNX file")
    segments: str = option("comma", "comma, or a folder or zip of comma CSVs")
    settings: tuple[str, ...] = option(
        ("1x1", "1x16", "1x64", "2x16"),
        "settings of exact to try: number of processes x batch size",
    )
    compare_fast: bool = option(True, "compare fast with exact on all segments")


def run(config: Config, output: Path | None) -> dict[str, int]:
    """Drive, compare, print; return how many rollouts differ by check."""
    expected = _read(Path(config.expected))
    segments = find_segments(config.segments)
    differ: dict[str, int] = {}
    table = Table("check", "rollouts", "differ", "largest difference of total_cost")
    checks = [(s, c) for s in config.settings for c in sorted(set(expected["controller"]))]
    for setting, controller in tqdm(checks, desc="exact"):
        processes, batch_size = (int(part) for part in setting.split("x"))
        known = expected.filter(pl.col("controller") == controller)
        some = segments[[segments.index(name) for name in known["route"]]]
        found = evaluate(
            controller_factory(controller),
            some,
            config.plant,
            processes=processes,
            batch_size=batch_size,
        ).costs
        wanted = Costs(*(known[field].to_numpy() for field in Costs._fields))
        name = f"exact, {controller}, {processes} process(es), batch {batch_size}"
        differ[name] = _compare(table, name, found, wanted)
    wrong = sum(differ.values())
    if config.compare_fast:
        for controller in tqdm(("pid", "zero"), desc="fast"):
            both = [_drive(config, segments, controller, r) for r in ("exact", "fast")]
            name = f"fast against exact, {controller}"
            differ[name] = _compare(table, name, both[1], both[0])
    console = Console()
    console.print(table)
    console.print(f"onnxruntime {ort.__version__}, numpy {np.__version__}, {_processor()}")
    if wrong:
        sys.exit(f"{wrong} rollouts of exact differ from {config.expected}: another build")
    return differ


def _drive(config: Config, segments: Segments, controller: str, runtime: str) -> Costs:
    factory = controller_factory(controller)
    return evaluate(factory, segments, config.plant, runtime, processes=2).costs


def _compare(table: Table, name: str, found: Costs, wanted: Costs) -> int:
    equal: NDArray[np.bool_] = np.all([f == w for f, w in zip(found, wanted, strict=True)], axis=0)
    count = int((~equal).sum())
    largest = float(np.abs(found.total_cost - wanted.total_cost).max())
    table.add_row(name, str(len(equal)), str(count), f"{largest:.3g}")
    return count


def _read(path: Path) -> pl.DataFrame:
    try:
        frame = pl.read_csv(path, schema_overrides={"route": pl.String})
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"cannot read expected={str(path)!r}: {error}") from error
    missing = set(_COLUMNS) - set(frame.columns)
    if missing:
        raise InputError(f"expected={str(path)!r} lacks column {min(missing)!r}")
    return frame


def _processor() -> str:
    features = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    return f"SIMD {', '.join(features)}"


main = study(Config, run, folder=False)

if __name__ == "__main__":
    main()
