"""A study that is killed anywhere and started again ends as one that was not."""

import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.harness import (
    count_into,
    difference,
    ended,
    kill_at,
    none_left,
    results,
    start,
)
from tests.reliability.studies import CASES, Case, make_inputs

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks warm processes")
#: Kills at random times of each study: by SIGKILL and by SIGTERM.
RANDOM = {signal.SIGKILL: 18, signal.SIGTERM: 3}
SAMPLE = ("generate-pendulum-data", "train-tracking-ppo")


@dataclass
class Warm:
    """Working folders of studies, and what the studies begin with."""

    folder: Path

    @cached_property
    def inputs(self) -> Path:
        """Folder of :func:`make_inputs`."""

        def run(study: str, arguments: list[str], place: Path) -> None:
            assert ended(start(study, arguments, place)) == 0, (place / "log.txt").read_text()

        make_inputs(self.folder / "inputs", run)
        return self.folder / "inputs"

    def start(self, case: Case, folder: Path, hook: Any = None, parallel: bool = False) -> int:
        """Fork a run of a study; return the number of its process."""
        needed = any("{inputs}" in option for option in case.options)
        arguments = case.arguments(self.inputs if needed else self.folder, parallel)
        return start(case.study, arguments, folder, hook)

    def work(self, name: str) -> Path:
        """Return a new working folder."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def run(self, case: Case, folder: Path, hook: Any = None, parallel: bool = False) -> int:
        """Run a study to its end, or to where the hook stops it; return its exit status."""
        return ended(self.start(case, folder, hook, parallel))

    def results(self, case: Case, folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in ("out", *case.folders):
            found |= {f"{name}/{k}": v for k, v in results(folder / name).items()}
        assert found
        return found


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Warm:
    return Warm(tmp_path_factory.mktemp("reliability"))


def whole_run(
    warm: Warm, case: Case, name: str, parallel: bool = False
) -> tuple[dict[str, Any], int, float]:
    """Return the results of an uninterrupted run, its visible changes (twice), and its seconds."""
    folder = warm.work(f"{name}-whole")
    began = time.monotonic()
    code = warm.run(case, folder, count_into(folder / "moments"), parallel)
    assert code == 0, (folder / "log.txt").read_text()[-3000:]
    return (
        warm.results(case, folder),
        int((folder / "moments").read_text()),
        time.monotonic() - began,
    )


def resumed(
    warm: Warm, case: Case, folder: Path, whole: dict[str, Any], parallel: bool = False
) -> str:
    """Run a stopped study again; return what is wrong with its results, or nothing."""
    if warm.run(case, folder, parallel=parallel):
        return "lost: " + (folder / "log.txt").read_text()[-1500:]
    if wrong := difference(whole, warm.results(case, folder)):
        return f"differs: {wrong}"
    return ""


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_kills(warm: Warm, name: str) -> None:
    case = CASES[name]
    whole, moments, _ = whole_run(warm, case, name)
    for moment in random.Random(0).sample(range(1, moments + 1), 2):
        folder = warm.work(f"{name}-{moment}")
        assert warm.run(case, folder, kill_at(moment)) == -signal.SIGKILL
        assert not resumed(warm, case, folder, whole), f"killed at {moment} of {moments}"


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_killed_at_every_visible_change(warm: Warm, name: str, tally: Any) -> None:
    case = CASES[name]
    whole, moments, _ = whole_run(warm, case, name)
    wrong = []
    for moment in range(1, moments + 1):
        folder = warm.work(f"{name}-cut")
        assert warm.run(case, folder, kill_at(moment)) == -signal.SIGKILL
        if problem := resumed(warm, case, folder, whole):
            wrong.append(f"{moment}: {problem}")
    tally(f"kills at a visible change, {name}", moments, len(wrong))
    assert not wrong, "\n".join(wrong)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_killed_at_random(warm: Warm, name: str, tally: Any) -> None:
    case = CASES[name]
    whole, _, seconds = whole_run(warm, case, name, parallel=True)
    rng = random.Random(name)
    for number, count in RANDOM.items():
        wrong = []
        for _ in range(count):
            folder = warm.work(f"{name}-random")
            pid = warm.start(case, folder, parallel=True)
            time.sleep(rng.uniform(0, seconds))
            os.kill(pid, number)
            code = ended(pid)
            text = (folder / "log.txt").read_text() if (folder / "log.txt").exists() else ""
            if not none_left(pid):
                wrong.append("a process is left")
            # Before the study listens to it, SIGTERM ends the process itself.
            if code not in (0, -number, 143):
                wrong.append(f"exit {code}: {text[-1500:]}")
            if code == 143 and "stopped." not in text:
                wrong.append("it says nothing")
            if problem := resumed(warm, case, folder, whole, parallel=True):
                wrong.append(problem)
        tally(f"{signal.Signals(number).name} at random, {name}", count, len(wrong))
        assert not wrong, "\n".join(wrong)
