"""Logs are told by what they hold where their names do not tell them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("capnp")

from steerlab.surrogates.logs.extract import ExtractOptions
from steerlab.surrogates.logs.pipeline import Extraction, extract_all
from steerlab.surrogates.logs.routes import find_logs
from steerlab.surrogates.training.dataset import from_labels
from tests.surrogates.logs import log_writer
from tests.surrogates.logs.log_writer import Drive, log

OPTIONS = ExtractOptions(min_seconds=20.0)
DRIVE = Drive(seconds=30.0)
ROUTE = "0123456789abcdef|2024-01-02--03-04-05"


def drive(start: int, minute: int = 0, speed: float = 0.0, **how: Any) -> bytes:
    """Return a log of another drive, which began at ``start`` s on the clock of the device."""
    before = log_writer.START, log_writer.ROUTE_START, log_writer.speed
    log_writer.ROUTE_START = start * 10**9
    log_writer.START = log_writer.ROUTE_START + (60 * minute + 2) * 10**9
    log_writer.speed = lambda t: before[2](t) + speed
    try:
        return log(replace(DRIVE, **how))
    finally:
        log_writer.START, log_writer.ROUTE_START, log_writer.speed = before


def extract(folder: Path, *sources: str, **how: Any) -> tuple[Extraction, list[dict[str, Any]]]:
    routes = [str(folder / source) for source in sources]
    result = extract_all(find_logs(routes), folder / "out", OPTIONS, processes=1, **how)
    return result, json.loads((folder / "out/index.json").read_text())


def write(folder: Path, **files: bytes) -> None:
    for name, data in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def csvs(folder: Path) -> list[float]:
    """Return the first speed of each segment."""
    paths = sorted((folder / "out").glob("*.csv"))
    return [float(np.genfromtxt(p, delimiter=",", skip_header=1)[0, 1]) for p in paths]


def test_own_folders_are_different_drives(tmp_path: Path) -> None:
    write(tmp_path, mine__monday__qlog=drive(100), mine__tuesday__qlog=drive(9000, speed=5.0))
    result, index = extract(tmp_path, "mine")
    assert (result.logs, result.segments) == (2, 2)
    assert len({entry["route"] for entry in index}) == 2
    assert sorted(csvs(tmp_path)) == [20.0, 25.0]
    assert len(set(from_labels(tmp_path / "out").routes)) == 2


def test_files_of_the_same_name_given_one_by_one(tmp_path: Path) -> None:
    write(tmp_path, A__qlog=drive(100), B__qlog=drive(9000, speed=5.0))
    result, _ = extract(tmp_path, "A/qlog", "B/qlog", "A/qlog")
    assert (result.logs, result.segments) == (2, 2)
    assert sorted(csvs(tmp_path)) == [20.0, 25.0]
    again, _ = extract(tmp_path, "A/qlog", "B/qlog")
    assert (again.resumed, again.segments) == (2, 2)


def test_minutes_of_one_drive_in_own_folders(tmp_path: Path) -> None:
    write(tmp_path, x__b__qlog=drive(100, minute=7), x__a__qlog=drive(100, minute=12))
    _, index = extract(tmp_path, "x")
    assert [entry["minute"] for entry in index] == [7, 12]
    assert len({entry["route"] for entry in index}) == 1


def test_a_folder_named_by_its_route_alone(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{f"x__{ROUTE}__rlog": drive(100, 3, rate=100), f"x__{ROUTE}__qlog": drive(100, 3)},
    )
    result, index = extract(tmp_path, "x")
    assert (result.logs, result.segments) == (1, 1)
    assert (index[0]["route"], index[0]["minute"]) == (ROUTE, 3)
    assert set(from_labels(tmp_path / "out").routes) == {ROUTE}


def test_rlog_and_qlog_of_a_minute_in_two_places_are_one(tmp_path: Path) -> None:
    write(tmp_path, a__qlog=drive(100), b__rlog=drive(100, rate=100))
    result, index = extract(tmp_path, "a", "b")
    assert (result.logs, result.segments) == (2, 1)
    assert result.problem_counts["left out: there twice"] == 1
    assert "b-" in index[0]["labels"]  # the rlog is kept
    assert len(from_labels(tmp_path / "out")) == 1  # the other one is not trained on either


def test_the_same_file_twice_is_one(tmp_path: Path) -> None:
    write(tmp_path, a__qlog=drive(100), b__qlog=drive(100))
    result, _ = extract(tmp_path, "a", "b")
    assert (result.logs, result.segments) == (2, 1)
    assert "the same file as a-" in dict(result.problems)[result.problems[0][0]]


def test_a_named_minute_that_is_there_twice(tmp_path: Path) -> None:
    """Two copies of a route, of which one is cut: neither replaces the other unseen."""
    name = "2024-01-02--03-04-05--0"
    whole = drive(100)
    write(tmp_path, **{f"a__{name}__qlog": whole[: len(whole) * 4 // 5], f"b__{name}__qlog": whole})
    result, index = extract(tmp_path, "a", "b")
    assert (result.logs, result.segments, index[0]["rows"]) == (2, 1, 302)
    assert result.problem_counts["left out: there twice"] == 1
    write(tmp_path, **{f"c__{name}__qlog": drive(5000, speed=3.0)})  # another drive of that name
    result, index = extract(tmp_path, "a", "b", "c")
    assert (result.logs, result.segments) == (3, 2)


def test_logs_that_only_seem_to_be_of_one_drive(tmp_path: Path) -> None:
    """Other values at the same time: kept, and not taken for one drive."""
    write(tmp_path, a__qlog=drive(100), b__qlog=drive(100, speed=5.0))
    result, index = extract(tmp_path, "a", "b")
    assert (result.logs, result.segments) == (2, 2)
    assert len({entry["route"] for entry in index}) == 2


def test_a_log_without_its_first_message(tmp_path: Path) -> None:
    write(
        tmp_path,
        a__qlog=drive(100, without=("initData",)),
        b__qlog=drive(100, without=("initData",), speed=5.0),
    )
    result, index = extract(tmp_path, "a", "b")
    assert (result.logs, result.segments) == (2, 2)
    assert len({entry["route"] for entry in index}) == 2
