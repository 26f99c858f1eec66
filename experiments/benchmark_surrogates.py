"""Measure the speed of plants against a reference plant in the same run.

The plants alternate and predict the same batches: as the file is (`exact`), with the last position
only (`fast`), and in torch on the device. The ratio is to the reference in the same runtime on the CPU;
for CUDA it is to the reference in torch on the same GPU.

Example:
  steerlab benchmark-surrogates reference=comma plants=[default,distilled.onnx]
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from steerlab.devices import torch_device
from steerlab.errors import InputError
from steerlab.experiments.compare_surrogates import speed
from steerlab.files import atomic_path
from steerlab.options import option
from steerlab.study import study
from steerlab.surrogates.plants.base import Plant
from steerlab.surrogates.plants.load import load_plant


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    reference: str = option("comma", "plant with which the others are compared")
    plants: list[str] = option(["default"], "plants to measure")
    batches: tuple[int, ...] = option((1, 16, 64, 1024), "batch sizes of the predictions")
    runtimes: tuple[str, ...] = option(("exact", "fast", "torch"), "runtimes: exact, fast, torch")
    seconds: float = option(2.0, "time of measurement for each plant and batch, s")
    device: str = option("auto", "device of the torch runtime: auto, cpu or cuda")


def run(config: Config, output: Path) -> list[dict[str, object]]:
    """Measure, print, write speeds.csv."""
    if config.seconds <= 0 or min(config.batches) < 1:
        raise InputError("seconds must be positive and batches at least 1")
    torch.set_num_threads(1)
    device = torch_device(config.device)
    names = [config.reference, *config.plants]
    rows: list[dict[str, object]] = []
    table = Table("runtime", "plant", *(f"batch {b}" for b in config.batches),
                  title="model-steps a second (and ratio to the reference), one CPU thread")  # fmt: skip
    for runtime in config.runtimes:
        plants: list[Plant] = [load_plant(name, runtime, config.device) for name in names]
        speeds = {b: speed(plants, b, config.seconds) for b in config.batches}
        where = f"{runtime} ({device})" if runtime == "torch" else runtime
        for place, name in enumerate(names):
            cells = []
            for batch, found in speeds.items():
                ratio = found[place] / found[0]
                cells.append(f"{found[place]:,.0f} ({ratio:.1f}x)")
                rows.append({"runtime": where, "plant": name, "batch": batch,
                             "steps_per_second": found[place], "ratio": ratio})  # fmt: skip
            table.add_row(where, Path(name).name, *cells)
    Console().print(table)
    with atomic_path(output / "speeds.csv") as temporary:
        pl.DataFrame(rows).write_csv(temporary)
    return rows


main = study(Config, run)

if __name__ == "__main__":
    main()
