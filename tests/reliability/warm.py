"""Working folders of the studies, in which they are run, stopped and run again."""

import shutil
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tests.clean_fork import fork
from tests.reliability.harness import count_into, difference, ended, results, start
from tests.reliability.studies import CASES, Case, make_inputs


class Whole(NamedTuple):
    """What an uninterrupted run left, its visible changes (twice), and its time (s)."""

    results: dict[str, Any]
    moments: int
    seconds: float


def _nothing() -> None:
    pass


@dataclass
class Warm:
    """Runs studies in forks of a warm process, below one folder."""

    folder: Path
    _whole: dict[tuple[str, bool], Whole] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> Path:
        """Folder of :func:`make_inputs`."""

        def run(study: str, arguments: list[str], place: Path) -> None:
            assert ended(start(study, arguments, place)) == 0, (place / "log.txt").read_text()

        make_inputs(self.folder / "inputs", run)
        return self.folder / "inputs"

    def work(self, name: str) -> Path:
        """Return a new working folder."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def start(self, case: Case, folder: Path, hook: Any = None, parallel: bool = False) -> int:
        """Fork a run of a study; return the number of its process."""
        needed = any("{inputs}" in option for option in case.options)
        arguments = case.arguments(self.inputs if needed else self.folder, parallel)
        return start(case.study, arguments, folder, hook)

    def run(self, case: Case, folder: Path, hook: Any = None, parallel: bool = False) -> int:
        """Run a study to its end, or to where the hook stops it; return its exit status."""
        return ended(self.start(case, folder, hook, parallel))

    def results(self, case: Case, folder: Path) -> dict[str, Any]:
        """Return what a run left."""
        found: dict[str, Any] = {}
        for name in ("out", *case.folders):
            found |= {f"{name}/{k}": v for k, v in results(folder / name).items()}
        assert found
        return found

    def whole(self, name: str, parallel: bool = False) -> Whole:
        """Return what an uninterrupted run of a study leaves; it is run once."""
        case = CASES[name]
        parallel = parallel and bool(case.parallel)
        if (name, parallel) not in self._whole:
            folder = self.work(f"{name}-whole")
            ended(
                fork(_nothing)
            )  # the first fork waits until the clean process has imported everything
            began = time.monotonic()
            code = self.run(case, folder, count_into(folder / "moments"), parallel)
            seconds = time.monotonic() - began
            assert code == 0, (folder / "log.txt").read_text()[-3000:]
            moments = int((folder / "moments").read_text())
            self._whole[name, parallel] = Whole(self.results(case, folder), moments, seconds)
        return self._whole[name, parallel]

    def resumed(self, name: str, folder: Path, parallel: bool = False) -> str:
        """Run a stopped study again; return what is wrong with its results, or nothing."""
        case = CASES[name]
        if self.run(case, folder, parallel=parallel):
            return "lost: " + (folder / "log.txt").read_text()[-1500:]
        wrong = difference(self.whole(name, parallel).results, self.results(case, folder))
        return f"differing: {wrong}" if wrong else ""
