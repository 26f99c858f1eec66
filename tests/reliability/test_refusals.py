"""Full disks, other people's folders and files: one line, nothing half written, nothing lost."""

import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from steerlab.agents.checkpoint import load_checkpoint, save_checkpoint
from steerlab.settings import study_settings
from tests.counts import Tally
from tests.reliability.harness import ended, kill_at, start
from tests.reliability.studies import CASES, Case
from tests.reliability.warm import Warm

PART = "refusals"
SAMPLE = "train-tracking-ppo"
NAMES = [
    pytest.param(n, marks=pytest.mark.slow if n == SAMPLE else pytest.mark.exhaustive)
    for n in CASES
]


def refused(warm: Warm, case: Case, folder: Path, words: str, hook: Any = None) -> None:
    """Run a study that cannot go on; it must say why in one line."""
    log = folder / "log.txt"
    log.unlink(missing_ok=True)
    code = warm.run(case, folder, hook)
    text = log.read_text()
    lines = [line for line in text.splitlines() if line.startswith("steerlab ")]
    assert code == 1, text[-2000:]
    assert "Traceback" not in text
    assert "Error executing" not in text
    assert len(lines) == 1, text[-2000:]
    assert words in lines[0]


def with_option(case: Case, option: str) -> Case:
    name = option.partition("=")[0]
    kept = [o for o in case.options if o.partition("=")[0] != name]
    return Case(case.study, [*kept, option], folders=case.folders)


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk(warm: Warm, name: str, tally: Tally) -> None:
    case = CASES[name]
    folder = warm.work(f"{name}-full")

    def full(when: str, path: Path) -> None:
        if path.name == "config.yaml" and when == "after":  # from then on nothing larger fits
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))

    refused(warm, case, folder, "cannot write", full)
    assert not warm.resumed(name, folder)
    tally(PART, name, refused=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_nobody_may_write(warm: Warm, name: str, tally: Tally) -> None:
    folder = warm.work(f"{name}-closed")
    closed = Path("/proc/1")
    study, options = CASES[name].study, CASES[name].arguments(warm.folder)[:-1]
    assert ended(start(study, [*options, f"output={closed}/out"], folder)) == 1
    text = (folder / "log.txt").read_text()
    assert "Traceback" not in text
    assert "cannot write into folder" in text
    tally(PART, name, refused=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_vanishes(warm: Warm, name: str, tally: Tally) -> None:
    folder = warm.work(f"{name}-vanished")

    def vanish(when: str, path: Path) -> None:
        if path.name == "config.yaml" and when == "after":
            shutil.rmtree(folder / "out")

    refused(warm, CASES[name], folder, "removed or replaced during the run", vanish)
    assert not (folder / "out").exists()
    tally(PART, name, refused=1)


@pytest.mark.parametrize("name", NAMES)
def test_settings_that_were_edited_or_removed(warm: Warm, name: str, tally: Tally) -> None:
    case = CASES[name]
    folder = warm.work(f"{name}-settings")
    assert warm.run(case, folder, kill_at(7)) in (0, -signal.SIGKILL)
    config = folder / "out/config.yaml"
    text = config.read_text()
    values = yaml.safe_load(text)
    key = next(k for k, v in values.items() if isinstance(v, int) and not isinstance(v, bool))
    other = with_option(case, f"{key}={values[key] + 1}")
    refused(warm, other, folder, "other settings")
    config.write_text(yaml.safe_dump(values | {key: values[key] + 1}))
    refused(warm, other, folder, "other settings")  # edited to what is asked for
    refused(warm, case, folder, "other settings")
    config.unlink()
    refused(warm, other, folder, "other settings")
    for damage in (b"\xff\xfe\0", b"- a\n- b\n", b"a: !!python/object/apply:os.getcwd []\n",
                   b"a: &a [x]\n" + b"b: [*a, *a]\n"):  # fmt: skip
        config.write_bytes(damage)
        refused(warm, case, folder, "config.yaml")
    config.unlink()
    config.mkdir()
    refused(warm, case, folder, "config.yaml")
    tally(PART, name, refused=9)


@pytest.mark.parametrize("name", NAMES)
def test_two_runs_in_one_folder(warm: Warm, name: str, tally: Tally) -> None:
    case = CASES[name]
    folder = warm.work(f"{name}-two")

    def wait(when: str, path: Path) -> None:
        if path.name == "config.yaml" and when == "after":
            time.sleep(600)

    pid = warm.start(case, folder, wait)
    try:
        while not (folder / "out/config.yaml").exists():
            time.sleep(0.05)
        refused(warm, case, folder, f"in use by process {pid} on {os.uname().nodename}")
    finally:
        os.kill(pid, signal.SIGKILL)
        ended(pid)
    tally(PART, name, refused=1)


def renamed(path: Path) -> None:
    """Rename a weight, with a checksum that is right."""
    contents = load_checkpoint(path)
    places = ("model", "network", "search", "learner")  # what trainings call their weights
    part = next(contents[name] for name in places if name in contents)
    part = part.get("policy", part)
    first = next(iter(part))
    part[first + "x"] = part.pop(first)
    kind = contents.pop("kind")
    with study_settings(contents.pop("settings")):
        save_checkpoint(path, kind, contents)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "another study's": (lambda p: save_checkpoint(p, "another study", {"model": {}}), "another study"),
    "an older one": (lambda p: torch.save({"model": {}, "epoch": 1}, p), "before versions"),
    "nothing": (lambda p: p.write_bytes(b""), "not a steerlab checkpoint"),
    "a renamed weight": (renamed, "does not fit"),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_wrong_checkpoints(warm: Warm, name: str, tally: Tally) -> None:
    case = CASES[name]
    folder = warm.work(f"{name}-checkpoint")

    def stop(when: str, path: Path) -> None:
        if path.name == "last.pt" and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    if warm.run(case, folder, stop) == 0:
        pytest.skip("the study has no checkpoint")
    (last,) = (folder / "out").rglob("last.pt")
    kept = last.read_bytes()
    for damage, words in WRONG.values():
        last.write_bytes(kept)
        damage(last)
        refused(warm, case, folder, words)
    last.write_bytes(kept)
    assert warm.run(case, folder) == 0
    tally(PART, name, refused=len(WRONG))
