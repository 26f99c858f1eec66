"""What every study has in common: options, help, errors, saved settings."""

import errno
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from steerlab.errors import InputError
from steerlab.options import option
from steerlab.study import study

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Nested:
    rate: float = option(0.5, "a rate")


@dataclass(frozen=True)
class Config:
    """Options of the study under test."""

    count: int = option(3, "how many")
    name: str = option("x", "what it is called")
    nested: Nested = option(Nested(), "")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


calls: list[tuple[Any, Path]] = []


def run(config: Config, output: Path) -> None:
    if config.name == "bad":
        raise InputError("name 'bad' is taken; choose another")
    if config.name == "bug":
        raise KeyError("a defect")
    if config.name == "stop":
        raise KeyboardInterrupt
    calls.append((config, output))


main = study(Config, run, resumes=True)


def test_a_full_disk_that_a_thread_meets_is_not_told_twice(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard writes in a thread of its own: what it meets, the study meets next, and says."""
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda raised: told.append(raised.exc_value))
    errors = [OSError(errno.ENOSPC, "No space left on device"), ValueError("a defect")]

    def fail(error: Exception) -> None:
        raise error

    def run_threads(config: Config, output: Path) -> None:
        for error in errors:
            thread = threading.Thread(target=fail, args=(error,))
            thread.start()
            thread.join()
        raise errors[0]

    with pytest.raises(SystemExit, match="cannot write: No space left on device"):
        study(Config, run_threads)(["output=out"])
    assert told == errors[1:]


def test_options_reach_the_study_and_are_saved(here: Path) -> None:
    calls.clear()
    main(["count=5", "nested.rate=0.25", "output=out"])
    config, output = calls[0]
    assert config == Config(count=5, nested=Nested(0.25))
    assert output.resolve() == here / "out"
    assert OmegaConf.load(output / "config.yaml") == {
        "count": 5,
        "name": "x",
        "nested": {"rate": 0.25},
    }
    main([])
    assert calls[1][1].parent.parent.name == "runs"


def test_another_setting_does_not_resume(here: Path) -> None:
    main(["count=5", "output=out"])
    main(["count=5", "output=out"])
    with pytest.raises(SystemExit, match=r"count=6 \(was 5\)"):
        main(["count=6", "output=out"])


def test_a_study_that_only_tells_something_makes_no_folder(here: Path) -> None:
    telling = study(Config, run, folder=False)
    calls.clear()
    telling(["count=5"])
    assert calls == [(Config(count=5), None)]
    assert not list(here.iterdir())
    with pytest.raises(SystemExit, match="output="):
        telling(["--multirun", "count=1,2"])
    assert not list(here.iterdir())
    telling(["count=5", "output=out"])
    assert (here / "out" / "config.yaml").is_file()


@pytest.mark.parametrize("module", ["doctor", "list_scenarios", "inspect_shard", "install_models"])
def test_these_only_tell_something(module: str) -> None:
    source = (ROOT / "experiments" / f"{module}.py").read_text(encoding="utf-8")
    assert "study(Config, run, folder=False)" in source


def test_multirun(here: Path) -> None:
    calls.clear()
    main(["--multirun", "count=range(1,4)", "output=many"])
    assert [c.count for c, _ in calls] == [1, 2, 3]
    assert sorted(p.parent.name for p in (here / "many").glob("*/config.yaml")) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cuont=5"], "unknown option 'cuont'; did you mean 'count'?"),
        (["count=many"], "could not be converted to Integer"),
        (["count"], "not of the form option=value"),
        (["name=bad"], "name 'bad' is taken; choose another"),
        (["nested.rat=1"], "rat"),
        (["count=[1"], "count=[1"),
        (["output=/proc/none"], "cannot write"),
    ],
)
def test_mistakes_are_one_line(here: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_defects_keep_their_traceback(here: Path) -> None:
    with pytest.raises(KeyError, match="a defect"):
        main(["name=bug"])


@pytest.mark.parametrize("arguments", [[], ["output=here"], ["--multirun", "count=1,2"]])
def test_an_interrupted_run_says_how_to_go_on(
    here: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["name=stop", *arguments])
    assert caught.value.code == 130
    again = capsys.readouterr().err.partition("To go on from there: ")[2].split()
    assert again[:3] == ["steerlab", "test-study", "name=stop"]
    folder = Path(again[-1].removeprefix("output="))
    assert list(folder.rglob("config.yaml"))
    with pytest.raises(SystemExit):
        main(again[2:])
    assert len(list(here.rglob("config.yaml"))) == 1  # it went on in the same folder


def test_help_lists_every_option(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    for word in ("count", "how many", "nested.rate", "0.5", "output", "--multirun"):
        assert word in text


def test_command() -> None:
    def steerlab(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "steerlab", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "usage" in steerlab().stdout
    wrong = steerlab("extract-segment")
    assert wrong.returncode != 0
    assert "did you mean 'extract-segments'" in wrong.stderr
