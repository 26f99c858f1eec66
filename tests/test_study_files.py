"""Settings from a YAML file: written with comments, read back, overridden by what is typed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from steerlab.experiments.train_driving import Config as DrivingConfig
from steerlab.options import option
from steerlab.study import study
from steerlab.study_files import SHIPPED, from_file, write_config


@dataclass(frozen=True)
class Nested:
    rate: float = option(0.5, "how fast, in parts of a second")


@dataclass(frozen=True)
class Config:
    """Options of the study under test."""

    count: int = option(3, "how many")
    name: str = option("", "what it is called")
    flags: tuple[str, ...] = option(("a", "b"), "which")
    limit: float | None = option(None, "none by default")
    quick: bool = option(False, "whether")
    nested: Nested = option(Nested(), "")


calls: list[Config] = []


def run(config: Config, output: Path) -> None:
    calls.append(config)


main = study(Config, run, resumes=True, free=("quick",))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    calls.clear()
    return tmp_path


def test_written_defaults_are_commented_and_mean_the_defaults(here: Path) -> None:
    main(["--write-config", "mine.yaml"])
    text = (here / "mine.yaml").read_text()
    assert "# how many\ncount: 3\n" in text
    assert "nested:\n  # how fast, in parts of a second\n  rate: 0.5\n" in text
    assert yaml.safe_load(text) == {
        "count": 3, "name": "", "flags": ["a", "b"], "limit": None, "quick": False,
        "nested": {"rate": 0.5},
    }  # fmt: skip
    main(["--config-name", "mine", "output=out"])
    flags: Any = ["a", "b"]  # a list, as OmegaConf has it
    assert calls == [Config(flags=flags)]


def test_what_is_typed_counts_more_than_the_file(here: Path) -> None:
    folder = here / "elsewhere"
    folder.mkdir()
    text = "count: 5\nname: a=b, {c}\nnested:\n  rate: 1e-3\nflags: [x y, 'q,r']\nquick: true\n"
    (folder / "mine.yaml").write_text(text)
    main([f"--config-dir={folder}", "-cn", "mine.yaml", "count=7", "output=out"])
    flags: Any = ["x y", "q,r"]  # a list, as OmegaConf has it
    wanted = Config(7, "a=b, {c}", flags, None, True, Nested(0.001))
    assert calls == [wanted]
    # An option that is free may differ in the same folder, another one may not.
    rest = [f"--config-dir={folder}", "--config-name=mine", "output=out"]
    main([*rest, "count=7", "quick=false"])
    with pytest.raises(SystemExit, match="other settings: count=8"):
        main([*rest, "count=8"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config-name", "none"], "there is no 'none.yaml'"),
        (["--config-name"], "needs a value"),
        (["--config-dir", "x"], "add --config-name"),
        (["--config-name", "wrong"], "did you mean 'count'"),
        (["--config-name", "odd"], "many"),
        (["--write-config", "wrong.yaml"], "exists"),
    ],
)
def test_mistakes_are_named(here: Path, arguments: list[str], said: str) -> None:
    (here / "wrong.yaml").write_text("cont: 5\n")
    (here / "odd.yaml").write_text("count: many\n")
    with pytest.raises(SystemExit, match=said):
        main([*arguments, "output=out"])
    assert not calls


def test_shipped_configurations_are_of_options_that_exist(here: Path) -> None:
    write_config("all.yaml", DrivingConfig, "train-driving")
    known = {a.partition("=")[0] for a in from_file({"--config-name": "all"}, [])}
    files = list(SHIPPED.glob("driving*.yaml"))
    assert files
    for file in files:
        told: list[Any] = from_file({"--config-name": file.stem}, [])
        assert {a.partition("=")[0] for a in told} <= known
