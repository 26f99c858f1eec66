"""Print the contents of shards, and draw their labels into their pictures.

Prints names, shapes and statistics of all arrays. With output=, writes a contact sheet and a short
video with lane lines, road edges, plan and lead projected into both cameras. A damaged or foreign
shard is named and skipped.

Example:
  steerlab inspect-shard shard=shards output=look
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from steerlab.envs.shards.layout import PARTS
from steerlab.envs.shards.pictures import contact_sheet, frame_picture
from steerlab.envs.shards.read import Shard, open_all
from steerlab.errors import InputError
from steerlab.files import atomic_path
from steerlab.film import write_film
from steerlab.options import option
from steerlab.study import study

FILM_FRAMES = 60


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    shard: str = option("shards", "a shard, or a folder of shards")
    check: bool = option(True, "read every byte, to find damage inside of files")
    film: bool = option(True, "also write a video")
    most: int = option(4, "number of shards of a folder to draw")


def run(config: Config, output: Path | None) -> dict[str, Any]:
    """Print, and draw into the folder; return how many shards are whole, and a line for each of the others."""
    console = Console()
    shards, bad = open_all(config.shard)
    whole = []
    for shard in shards:
        try:
            if config.check:
                shard.check()
            whole.append(shard)
        except InputError as error:
            bad.append(str(error))
    for line in bad:
        console.print(f"[bold]left out:[/] {line}", highlight=False, soft_wrap=True)
    if not whole:
        raise InputError(f"no whole shard in {config.shard!r}; steerlab collect makes some")
    for shard in whole[: config.most]:
        console.print(_about(shard), highlight=False, soft_wrap=True)
        console.print(_table(shard))
        if output is None:
            continue
        with atomic_path(output / f"{shard.path.stem}.jpg") as path:
            Image.fromarray(contact_sheet(shard)).save(path, quality=80)
        if config.film:
            frames = (frame_picture(shard, i) for i in range(min(FILM_FRAMES, shard.frames)))
            write_film(frames, output / shard.path.stem)
    if output is None:
        console.print("give output= for a contact sheet and a film")
    return {"whole": len(whole), "bad": bad}


def _about(shard: Shard) -> str:
    told = shard.attributes
    size = sum(told["files"].values())
    return (
        f"\n{shard.path}: {shard.frames} frame pairs at {told['hz']} Hz, {shard.ticks} ticks, "
        f"{size / 1e6:.1f} MB ({size / 1e3 / max(shard.frames, 1):.0f} kB a pair), seed "
        f"{told['seed']}, steerlab {told['package']} {told['commit'][:8]}, ended: {told['ended']}"
    )


def _table(shard: Shard) -> Table:
    table = Table("array", "shape", "type", "min", "mean", "max", "known", box=None)
    for name in PARTS:
        values = shard.read(name)
        known = f"{name}_valid"
        share = f"{100 * shard.read(known).mean():.0f} %" if known in PARTS else ""
        numbers = (values.min(), values.mean(), values.max()) if values.size else (np.nan,) * 3
        table.add_row(
            name, "x".join(map(str, values.shape)), str(values.dtype),
            *(f"{float(n):.4g}" for n in numbers), share,
        )  # fmt: skip
    return table


main = study(Config, run, folder=False)

if __name__ == "__main__":
    main()
