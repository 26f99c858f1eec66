"""Many logs at once: numbering, resume, and reports on what was skipped."""

import json
from pathlib import Path

import numpy as np
import pytest

zstandard = pytest.importorskip("zstandard")
pytest.importorskip("capnp")

from steerlab.errors import InputError
from steerlab.surrogates.logs import pipeline
from steerlab.surrogates.logs.extract import ExtractOptions
from steerlab.surrogates.logs.pipeline import extract_all
from steerlab.surrogates.logs.routes import LogFile, find_logs
from tests.surrogates.logs.log_writer import Drive, log

DONGLE = "0123456789abcdef"
OPTIONS = ExtractOptions(min_seconds=20.0)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[LogFile]:
    folder = tmp_path_factory.mktemp("logs")
    drives = {
        "2024-01-02--03-04-05--0": log(Drive()),
        "2024-01-02--03-04-05--2": log(Drive(pressed=(30.0, 31.0))),
        "2024-01-02--03-04-05--10": log(Drive())[:250_000],
        "2024-01-03--03-04-05--0": log(Drive(controller="angle")),
        "2024-01-03--03-04-05--1": b"",
    }
    for name, data in drives.items():
        (folder / name).mkdir()
        (folder / name / "qlog.zst").write_bytes(zstandard.compress(data) if data else b"")
    return list(find_logs([str(folder)]))


def tree(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def test_segments_index_and_report(logs: list[LogFile], tmp_path: Path) -> None:
    result = extract_all(logs, tmp_path, OPTIONS, processes=1)
    index = json.loads((tmp_path / "index.json").read_text())
    found = [(e["id"], e["minute"], e["start"], e["rows"]) for e in index]
    assert found[:3] == [("00000", 0, 0.0, 600), ("00001", 2, 0.0, 300), ("00002", 2, 31.9, 281)]
    assert found[3][:2] == ("00003", 10)
    assert index[0]["git_commit"] == "abc123def"
    assert result.segments == 4
    assert sorted(p.name for p in tmp_path.glob("*.csv")) == [f"0000{i}.csv" for i in range(4)]
    rows = np.genfromtxt(tmp_path / "00002.csv", delimiter=",", skip_header=1)
    assert rows.shape == (281, 6)
    assert np.isfinite(rows).all()
    assert result.problem_counts["damaged"] == 2
    assert ("2024-01-03--03-04-05--0001", "the log is empty") in result.problems
    assert result.rows["no torque control (angle)"] == 600


def test_numbers_do_not_depend_on_workers_or_order(logs: list[LogFile], tmp_path: Path) -> None:
    extract_all(logs, tmp_path / "one", OPTIONS, processes=1)
    extract_all(reversed(logs), tmp_path / "two", OPTIONS, processes=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_resume(logs: list[LogFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = extract_all(logs, tmp_path / "whole", OPTIONS, processes=1)
    calls = []
    real = pipeline._extract_one

    def dies(job: pipeline._Job, item: LogFile) -> str:
        calls.append(item)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(job, item)

    monkeypatch.setattr(pipeline, "_extract_one", dies)
    with pytest.raises(KeyboardInterrupt):
        extract_all(logs, tmp_path / "cut", OPTIONS, processes=1)
    calls.clear()
    monkeypatch.setattr(pipeline, "_extract_one", real)
    resumed = extract_all(logs, tmp_path / "cut", OPTIONS, processes=1)
    assert resumed.resumed == 2
    assert resumed.segments == whole.segments
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_fewer_logs_leave_no_stale_numbers(logs: list[LogFile], tmp_path: Path) -> None:
    extract_all(logs, tmp_path, OPTIONS, processes=1)
    assert extract_all(logs[:1], tmp_path, OPTIONS, processes=1).segments == 1
    assert [p.name for p in tmp_path.glob("*.csv")] == ["00000.csv"]


def test_only_some_commits(logs: list[LogFile], tmp_path: Path) -> None:
    result = extract_all(logs[:1], tmp_path / "a", OPTIONS, processes=1, git_commits=("abc",))
    assert result.segments == 1
    result = extract_all(logs[:1], tmp_path / "b", OPTIONS, processes=1, git_commits=("fff",))
    assert result.segments == 0
    assert result.problem_counts["recorded by another commit (abc123def)"] == 1


def test_bad_requests(logs: list[LogFile], tmp_path: Path) -> None:
    extract_all(logs[:1], tmp_path, OPTIONS, processes=1, write_samples=False)
    assert not list(tmp_path.glob("*.csv"))
    with pytest.raises(InputError, match=r"min_seconds=30.0 \(was 20.0\)"):
        extract_all(logs, tmp_path, ExtractOptions(min_seconds=30.0), processes=1)
    with pytest.raises(InputError, match="processes=0"):
        extract_all(logs, tmp_path, OPTIONS, processes=0)
    gone = LogFile("x", 0, str(tmp_path / "gone"))
    result = extract_all([gone, *logs[:1]], tmp_path, OPTIONS, processes=1)
    assert result.segments == 1
    assert "there is no log" in result.problems[0][1]
