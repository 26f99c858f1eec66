"""The extraction study from the command line to the table."""

import re
from pathlib import Path

import pytest

pytest.importorskip("capnp")

from steerlab.experiments.extract_segments import main
from tests.surrogates.logs.log_writer import Drive, log


def test_extracts_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("logs/2024-01-02--03-04-05--3").mkdir(parents=True)
    Path("logs/2024-01-02--03-04-05--3/rlog").write_bytes(log(Drive(pressed=(30.0, 31.0))))
    main(["routes=[logs]", "processes=1", "min_seconds=25", "samples_path=out", "output=run"])
    printed = capsys.readouterr().out
    assert "driver steers" in printed
    assert "2 segments from 1 logs in out" in printed
    assert Path("out/00001.csv").exists()
    main(["routes=[logs]", "processes=1", "min_seconds=25", "samples_path=out", "output=run"])
    assert "1 of them done before" in capsys.readouterr().out
    main(["routes=logs", "processes=1", "min_seconds=25", "samples_path=out", "output=run2"])
    with pytest.raises(SystemExit, match="no segment was long enough"):
        main(["routes=logs", "processes=1", "samples_path=none", "output=run3"])
    assert re.search(r"good, but too few in a row +58\.1 ", capsys.readouterr().out)


def test_what_is_not_there_stops_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("logs/2024-01-02--03-04-05--3").mkdir(parents=True)
    Path("logs/2024-01-02--03-04-05--3/qlog").write_bytes(log(Drive(seconds=1.0)))
    for wrong in ("routes=[logs,nowhere]", "log=rlog"):
        with pytest.raises(SystemExit, match=r"nowhere|has no rlog"):
            main(["routes=[logs]", wrong, "processes=1", "samples_path=out", "output=run"])
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no logs are named"),
        (["routes=[nowhere]"], "neither a route name"),
        (["routes=[a]", "roll_source=road"], "roll_source"),
        (["routes_file=none.txt"], "cannot read routes_file"),
    ],
)
def test_bad_options(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        main([*arguments, "output=run"])
