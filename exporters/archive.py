"""What made a set of files, in one folder: checkpoint, settings, data, versions, hashes."""

import json
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import steerlab
from steerlab.doctor.packages import requirements
from steerlab.envs.carla_driver.collecting import commit
from steerlab.envs.shards.read import open_all
from steerlab.files import file_hash, transaction, writable_folder

#: Of a shard's attributes, those that say where it comes from.
_TOLD = (
    "scenario_hash", "map", "map_hash", "seed", "weather", "backend", "hz", "ended", "schema",
    "package", "commit",
)  # fmt: skip


def write_archive(
    folder: str | Path,
    checkpoint: Path,
    settings: Mapping[str, Path],
    data: Mapping[str, Path],
    files: Sequence[Path],
    commands: Sequence[str],
) -> Path:
    """Write the archive; its files change together.

    Args:
        folder: Where.
        checkpoint: The trained weights; a copy goes into the archive.
        settings: Files of settings by the name that they get; absent ones are left out.
        data: Folders of shards by what they were used for.
        files: Exported files, of which the hashes are kept.
        commands: The command of each stage.
    """
    folder = writable_folder(folder)
    with transaction(folder) as archive:
        shutil.copyfile(checkpoint, archive.path(checkpoint.name))
        for name, path in settings.items():
            if path.is_file():
                shutil.copyfile(path, archive.path(name))
        tables = {
            "data.json": {use: manifest(path) for use, path in data.items()},
            "versions.json": versions(),
            "files.json": {path.name: file_hash(path) for path in (checkpoint, *files)},
        }
        for name, table in tables.items():
            archive.path(name).write_text(json.dumps(table, indent=1), encoding="utf-8")
        archive.path("commands.txt").write_text("\n".join(commands) + "\n", encoding="utf-8")
    return folder


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what is known of every shard in a folder, by name."""
    if not folder.is_dir():
        return {}
    found = {}
    for shard in open_all(folder)[0]:
        told = {name: shard.attributes.get(name) for name in _TOLD}
        scenario = shard.attributes["scenario"]
        found[shard.path.name] = {
            "scenario": scenario["name"] if isinstance(scenario, Mapping) else scenario,
            **told,
            "frames": shard.frames,
            "bytes": sum(shard.attributes["files"].values()),
        }
    return found


def versions() -> dict[str, Any]:
    """Return the versions of everything that has a part in the result."""
    packages: dict[str, str | None] = {}
    for requirement in requirements()[""]:
        try:
            packages[requirement.name] = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            packages[requirement.name] = None
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "steerlab": steerlab.__version__,
        "commit": commit(),
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "gpu": gpu,
        "cuda": torch.version.cuda,
        "packages": packages,
    }
