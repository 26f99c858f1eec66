"""Text is taken as typed, and mistakes are named in one line."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from steerlab.options import option
from steerlab.study import study


@dataclass(frozen=True)
class Inner:
    label: str = option("a", "a text")
    epochs: float = option(1.0, "a number")


@dataclass(frozen=True)
class Config:
    """Options of the study under test."""

    learning_rate: float = option(0.1, "a number")
    name: str = option("x", "a text")
    start: str | None = option(None, "a text or nothing")
    routes: tuple[str, ...] = option((), "texts")
    inner: Inner = option(Inner(), "")
    processes: int = option(1, "a number")


calls: list[tuple[Any, Path]] = []


def run(config: Config, output: Path) -> None:
    calls.append((config, output))


main = study(Config, run)

TEXTS = (
    "plain", "fünf Straßen", "a=b=c", "a,b", "[a,b]", "{a:1}", "it's", '"quoted"', "'quoted'", "# no comment",
    "${now:%Y}", "a\\${b}", "back\\slash", "ends with\\", "\\'", "100%", "a:b", "(x)", "true", "null text", "1e3",
    " spaces ", "日本", "a~b", "@!$^&*;|<>?", "",
)  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    calls.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize("first", range(0, len(TEXTS), 3))
def test_text_is_taken_as_typed(first: int) -> None:
    texts = [TEXTS[(first + i) % len(TEXTS)] for i in range(3)]
    main([f"name={texts[0]}", f"start={texts[1]}", f"inner.label={texts[2]}", "output=o"])
    config, _ = calls[0]
    assert [config.name, config.start, config.inner.label] == texts


@pytest.mark.parametrize("text", [t for t in TEXTS if t][1::2])
def test_the_output_folder_is_the_one_that_was_typed(here: Path, text: str) -> None:
    main([f"output={text}"])
    assert calls[0][1] == Path(text)
    assert os.listdir(here) == [text]
    assert (here / text / "config.yaml").is_file()


def test_home_is_expanded(here: Path) -> None:
    main(["output=~/out", "name=~/data", "routes=[~/a,b]"])
    config, output = calls[0]
    assert output == here / "home/out"
    assert config.name == str(here / "home/data")
    assert list(config.routes) == [str(here / "home/a"), "b"]
    assert not (here / "~").exists()


def test_null_is_nothing(here: Path) -> None:
    main(["output=null", "start=null"])
    assert calls[0][0].start is None
    assert os.listdir(here) == ["runs"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("one", ("one",)),
        ("[a,b]", ("a", "b")),
        ("[a b/ü.bz2, c=d#e]", ("a b/ü.bz2", "c=d#e")),
        ("['a,b',\"c\"]", ("a,b", "c")),
        ("[]", ()),
        ("[x[1],y]", ("x[1]", "y")),
        ("${now:%Y}", ("${now:%Y}",)),
    ],
)
def test_lists_of_texts(typed: str, expected: tuple[str, ...]) -> None:
    main([f"routes={typed}", "output=o"])
    assert tuple(calls[0][0].routes) == expected


def test_a_multirun_separates_at_commas(here: Path) -> None:
    main(["--multirun", "name=a,b", "output=m,n"])
    assert [c.name for c, _ in calls] == ["a", "b"]
    assert [o for _, o in calls] == [Path("m,n/0"), Path("m,n/1")]
    assert os.listdir(here) == ["m,n"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr", "1e-3"], "learning_rate=1e-3"),
        (["--lr=1e-3"], "learning_rate=1e-3"),
        (["--learning-rate", "1e-3"], "learning_rate=1e-3"),
        (["-n", "x"], "unknown flag '-n'"),
        (["lr=1"], "did you mean 'learning_rate'?"),
        (["--resolve"], "--resolve belongs to --cfg job"),
        (["--experimental-rerun=x"], "unknown flag '--experimental-rerun=x'"),
        (["--shell-completion"], "unknown flag '--shell-completion'"),
        (["hydra.run.dir=/proc/x"], "output= says where results go"),
        (["hydra/launcher=joblib"], "with --multirun only"),
        (["learning_rate=fast", "output=new"], "could not be converted to Float"),
        (["learning_rate=[1", "output=new"], "cannot read 'learning_rate=[1'"),
        (["inner.labl=x", "output=new"], "labl"),
        (["workers=2"], "the option 'workers' is called 'processes' now; write processes=..."),
        (["inner.passes=2"], "the option 'inner.passes' is called 'inner.epochs' now"),
        (["n_epochs=2"], "unknown option 'n_epochs'"),  # this study never had it
    ],
)
def test_mistakes_are_named_and_nothing_is_made(
    here: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(here) == []


@pytest.mark.parametrize("name", ["learning_rate", "nothing", "--nothing", "output"])
def test_messages_repeat_no_more_than_a_line(name: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([f"{name}={'y' * 5000}"])
    assert len(str(caught.value)) < 400
