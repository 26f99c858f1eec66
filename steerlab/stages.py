"""Stages of a long command, each done once for the same inputs."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from steerlab.files import file_hash, write_json
from steerlab.readers.text import read_json

DONE = "done.json"


class Stages:
    """What the stages of a run made, with hashes, in ``done.json`` of its folder.

    Args:
        folder: Folder of the run. It may move; the paths in the note are relative to it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def once(
        self, stage: str, work: Callable[[], tuple[list[Path], bool]], *inputs: Path
    ) -> tuple[list[Path], bool]:
        """Return the files of a stage, and whether they were made before.

        Work is done unless the stage ended before with the same inputs, and its files are as it left them.

        Args:
            stage: Its name.
            work: Makes the files, and says whether they are good. Those that are not are made again
                by the next call.
            inputs: Files that the stage reads.
        """
        path = self.folder / DONE
        done: dict[str, Any] = read_json(path, dict) if path.is_file() else {}
        before, known = self._hashes(inputs), done.get(stage, {})
        files = [self.folder / name for name in known.get("files", ())]
        whole = all(file.is_file() for file in files) and self._hashes(files) == known.get("files")
        if whole and known["inputs"] == before:
            return files, True
        made, good = work()
        if good:
            done[stage] = {"inputs": before, "files": self._hashes(made)}
            write_json(path, done)
        return made, False

    def _hashes(self, files: Iterable[Path]) -> dict[str, str]:
        """Return hashes by paths as seen from the folder of the run."""
        return {os.path.relpath(file, self.folder): file_hash(file) for file in files}
