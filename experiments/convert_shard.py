"""Rewrite shards in the layout of another program.

``layout=sunnypilot`` writes the arrays of the specification (jagoff2/sunnypilot,
``tools/sunnypilot_training``), one zarr group for each shard. A damaged or foreign shard is named and
skipped.

Example:
  steerlab convert-shard shard=shards layout=sunnypilot output=converted
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm.auto import tqdm

from steerlab.envs.shards.read import Shard, open_all
from steerlab.envs.shards.sunnypilot import SOURCES, convert
from steerlab.envs.shards.write import PENDING, need_zarr
from steerlab.errors import InputError, unknown_name
from steerlab.options import option
from steerlab.study import study

LAYOUTS = ("sunnypilot",)
CHUNK = 64  # frames, as the specification has it


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    shard: str = option("shards", "a shard, or a folder of shards")
    layout: str = option("sunnypilot", "layout to write")


def run(config: Config, output: Path) -> dict[str, Any]:
    """Convert; return how many shards were written, and a line for each that was left out."""
    if config.layout not in LAYOUTS:
        raise unknown_name("layout", config.layout, LAYOUTS)
    shards, bad = open_all(config.shard)
    console = Console()
    written = 0
    for shard in tqdm(shards, unit="shard"):
        try:
            _write(shard, output)
            written += 1
        except InputError as error:
            bad.append(str(error))
    for line in bad:
        console.print(f"[bold]left out:[/] {line}", highlight=False, soft_wrap=True)
    if not written:
        raise InputError(f"no whole shard in {config.shard!r}; steerlab collect makes some")
    return {"written": written, "bad": bad}


def _write(shard: Shard, output: Path) -> None:
    """Write one converted shard, whole or not at all."""
    zarr = need_zarr()
    target = output / shard.path.name
    if target.exists():
        raise InputError(f"{str(target)!r} exists: choose another output=")
    arrays = convert(shard)
    scratch = Path(tempfile.mkdtemp(dir=output, prefix=f"{PENDING}-"))
    try:
        group = zarr.open_group(scratch, mode="w")
        for name, values in arrays.items():
            group.create_array(
                name, data=values, chunks=(min(len(values), CHUNK), *values.shape[1:])
            )
        schema = {name: list(values.shape[1:]) for name, values in arrays.items()}
        group.attrs.update({"schema": schema, "sources": SOURCES, "from": shard.path.name})
        scratch.chmod(0o755)
        os.rename(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


main = study(Config, run)

if __name__ == "__main__":
    main()
