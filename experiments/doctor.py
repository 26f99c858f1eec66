"""List what this installation lacks, and how to get it.

Checks Python, packages and extras, torch's build for the GPU, clang, CARLA's client and server,
CARLA_ROOT, disk space, write access, caches and data, and changes nothing. What only some studies need
is a note; needs= makes it an error. The exit status is 0 if nothing is wrong, else 1. data= names
folders that may contain shards.

Example:
  steerlab doctor
  steerlab doctor "needs=[gpu,carla,tinygrad]"
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steerlab import doctor
from steerlab.doctor import NOTE, OK, WRONG, Finding
from steerlab.envs.carla_driver.server.capabilities import TABLE
from steerlab.envs.carla_driver.server.launch import find_program
from steerlab.errors import InputError, unknown_name
from steerlab.options import option
from steerlab.study import study
from steerlab.surrogates.segments import comma

_STYLE = {OK: "green", NOTE: "yellow", WRONG: "bold red"}


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    needs: tuple[str, ...] = option(
        (), "what you need: gpu, tinygrad, carla, data, or an extra such as camera"
    )
    output_folder: str = option(".", "folder in which you want to write results")
    data: tuple[str, ...] = option(("shards", "data/zarr"), "folders that may contain shards")
    carla_host: str = option("127.0.0.1", "host of a CARLA server")
    carla_port: int = option(2000, "port of the CARLA server")


def run(config: Config, output: Path | None) -> list[Finding]:
    """Look at everything, print the table; exit with 1 if something is wrong."""
    found = list(_findings(config))
    topics = {finding.topic for finding in found}
    for need in config.needs:
        if need not in topics:
            raise unknown_name("need", need, topics)
    found = [f.needed() if f.topic in config.needs else f for f in found]
    console = Console()
    table = Table("what", "", "found", box=None, header_style="bold")
    for finding in found:
        style = _STYLE[finding.status]
        table.add_row(finding.name, f"[{style}]{finding.status}[/]", escape(finding.found))
    console.print(table)
    console.print()
    for finding in found:
        if finding.remedy:  # in one line each, so that commands can be copied
            style = _STYLE[finding.status]
            line = f"[{style}]{finding.name}[/]: {escape(finding.remedy)}"
            console.print(line, soft_wrap=True, highlight=False)
    wrong = [f.name for f in found if f.status == WRONG]
    if wrong:
        sys.exit(f"steerlab doctor: {len(wrong)} wrong: {', '.join(wrong)}")
    console.print("nothing is wrong")
    return found


def _findings(config: Config) -> Iterator[Finding]:
    yield doctor.python_version()
    yield from doctor.package_findings()
    yield from doctor.extras()
    yield _torch()
    yield doctor.compiler()
    yield from doctor.carla_findings(
        config.carla_host, config.carla_port, find_program, tuple(TABLE)
    )
    folder = Path(config.output_folder).expanduser()
    yield doctor.disk(folder)
    yield doctor.writable("results", folder, "give output= in a folder that you may write")
    yield from doctor.cache_findings()
    yield _routes()
    for name in config.data:
        yield _shards(Path(name))


def _torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of it is missing
        remedy = 'pip install "torch>=2.8,<2.14"'
        return Finding("GPU", WRONG, f"torch cannot be imported: {error}", remedy, "gpu")
    return doctor.torch_build(
        doctor.gpus(),
        torch.version.cuda,
        torch.cuda.get_arch_list() if torch.version.cuda else (),
        torch.cuda.is_available(),
    )


def _routes() -> Finding:
    missing = [p.name for p in (comma.model_path(), comma.data_path()) if not p.exists()]
    if missing:
        found = f"{' and '.join(missing)} of TinyPhysics not fetched"
        return Finding("comma's routes", NOTE, found, "steerlab fetch-tinyphysics", "data")
    return Finding("comma's routes", OK, str(comma.data_path()), topic="data")


def _shards(folder: Path) -> Finding:
    """Check the shards in a folder by their attributes and the sizes of their files."""
    name, remedy = f"shards in {folder}", f"steerlab collect output={folder}"
    if not folder.is_dir():
        return Finding(name, NOTE, "no such folder", remedy, "data")
    try:
        from steerlab.envs.shards.read import open_all

        whole, bad = open_all(folder)
    except InputError as error:
        return Finding(name, NOTE, str(error), remedy, "data")
    if bad:
        remedy = f"delete the damaged ones and collect again: {remedy}"
        return Finding(name, WRONG, f"{len(whole)} whole; damaged: {bad[0]}", remedy, "data")
    if not whole:
        return Finding(name, NOTE, "none", remedy, "data")
    return Finding(name, OK, f"{len(whole)} whole", topic="data")


main = study(Config, run, folder=False)

if __name__ == "__main__":
    main()
