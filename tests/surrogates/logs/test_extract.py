"""Which rows become segments, with values that are known at every time."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("capnp")

from steerlab.errors import InputError
from steerlab.surrogates.logs.extract import (
    COLUMNS,
    ExtractOptions,
    ExtractReport,
    Segment,
    extract_log,
    load_labels,
    save_segments,
    write_csv,
)
from tests.surrogates.logs.log_writer import Drive, log, roll, speed, target, torque

SHORT = ExtractOptions(min_seconds=20.0)


def extract(
    drive: Drive | bytes, options: ExtractOptions = SHORT
) -> tuple[list[Segment], ExtractReport]:
    report = ExtractReport()
    data = drive if isinstance(drive, bytes) else log(drive)
    return list(extract_log([data], options, report)), report


def spans(segments: list[Segment]) -> list[tuple[float, int]]:
    return [(s.start, len(s.table)) for s in segments]


@pytest.mark.parametrize("rate", [10, 100])
def test_three_minutes_with_an_override(rate: int) -> None:
    drive = Drive(seconds=180.0, rate=rate, pressed=(90.0, 92.0))
    segments, report = extract(drive, ExtractOptions())
    assert spans(segments) == [(0.0, 600), (120.0, 600)]
    # A row covers the 0.1 s before it: at 100 Hz the one at 92.0 s still sees a press at 91.99 s.
    assert report.rows["driver steers"] == (20 if rate == 10 else 21)
    assert report.skipped["stretch shorter than min_seconds"] == 2
    pieces, _ = extract(drive)
    last_pressed = 92.0 - 1 / rate
    resumed = np.ceil(round((last_pressed + 1.0) * 10, 6)) / 10
    assert spans(pieces) == [(0.0, 600), (60.0, 300), (resumed, 1200 - round(resumed * 10)),
                             (120.0, 600)]  # fmt: skip


def test_minutes_that_are_a_little_short_count() -> None:
    """The simulator needs 549 rows; many of the public segments have fewer than 600."""
    segments, _ = extract(Drive(seconds=59.6), ExtractOptions())
    assert [s.start for s in segments] == [0.0]
    assert 594 <= len(segments[0].table) <= 600
    assert not extract(Drive(seconds=54.0), ExtractOptions())[0]
    _, report = extract(Drive(pressed=(30.0, 31.0)), ExtractOptions())
    assert report.rows["good, but too few in a row"] == 300 + 281
    assert not report.rows["good"]
    assert sum(report.rows.values()) == 600


@pytest.mark.parametrize(("late", "rows"), [(0.7, 600), (1.9, 600), (4.0, 580)])
def test_a_late_roll_is_held_backwards(late: float, rows: int) -> None:
    """By at most 2 s, and at the start of a log only."""
    (segment,), _ = extract(Drive(roll_from=late), ExtractOptions())
    assert len(segment.table) == pytest.approx(rows, abs=3)
    held = roll(np.ceil(late * 5) / 5 + 0.004)
    if rows == 600:
        assert segment.table[0, 3] == pytest.approx(held, abs=2e-4)


def test_values_on_the_grid() -> None:
    (segment,), _ = extract(Drive(), ExtractOptions())
    columns = dict(zip(COLUMNS, segment.table.T, strict=True))
    t = np.arange(600) * 0.1
    np.testing.assert_array_equal(columns["t"], np.round(t, 1))
    # Signals are linear in time, so interpolation is exact up to float32. Those that come after
    # the first carState are held at their first value, and at their last one.
    inner = slice(1, -1)
    for name, function in (
        ("vEgo", speed),
        ("targetLateralAcceleration", target),
        ("steerCommand", torque),
        ("roll", roll),
    ):
        expected = np.array([function(x) for x in t])
        np.testing.assert_allclose(columns[name][inner], expected[inner], atol=3e-5)
    np.testing.assert_allclose(
        columns["actualLateralAcceleration"], columns["targetLateralAcceleration"] - 0.1, atol=1e-6
    )
    assert np.isnan(columns["steerApplied"]).all()
    assert segment.info["lateralDelay"] == 0.25
    assert not segment.info["target_is_delayed"]


def test_sign_of_steer_is_that_of_the_public_data() -> None:
    """The logged torque is positive to the left: it runs against the right-positive target."""
    (segment,), _ = extract(Drive(), ExtractOptions())
    table = dict(zip(COLUMNS, segment.table.T, strict=True))
    correlation = np.corrcoef(table["steerCommand"], table["targetLateralAcceleration"])[0, 1]
    assert correlation < -0.9


def test_public_routes_have_that_sign(shared: Path) -> None:
    import io
    import zipfile

    signs = []
    with zipfile.ZipFile(shared / "tinyphysics/segments.zip") as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".csv"))[:60]:
            rows = np.genfromtxt(io.BytesIO(archive.read(name)), delimiter=",", skip_header=1)[:100]
            if rows[:, 1].mean() > 15:
                signs.append(np.corrcoef(rows[:, 5], rows[:, 4])[0, 1])
    assert np.median(signs) < -0.5


def test_roll_sources() -> None:
    for source, offset in (("liveParameters", 0.0), ("carControl", 0.1)):
        (segment,), _ = extract(Drive(), ExtractOptions(roll_source=source))
        assert segment.table[300, 3] == pytest.approx(roll(30.0) + offset, abs=1e-4)
    segments, report = extract(Drive(), ExtractOptions(roll_source="liveLocationKalman"))
    assert not segments
    assert report.skipped["the log has no liveLocationKalman"] == 1


def test_control_is_judged_row_by_row() -> None:
    drive = Drive(inactive=(20.0, 21.0), fault=(40.0, 40.5))
    segments, report = extract(drive, ExtractOptions(min_seconds=5.0, settle_seconds=0.0))
    assert report.rows["steering fault"] == 5
    assert 10 <= report.rows["lateral control off"] <= 11
    starts = [s.start for s in segments]
    assert starts == [0.0, pytest.approx(21.0, abs=0.11), 40.5]
    slow, report = extract(Drive(), ExtractOptions(min_speed=21.0, min_seconds=20.0))
    assert spans(slow) == [(20.0, 400)]
    assert report.rows["too slow"] == 200


def test_controllers() -> None:
    for kind in ("angle", "curvature", "debug"):
        segments, report = extract(Drive(controller=kind))
        assert not segments
        assert report.rows == {f"no torque control ({kind})": 600}
    (segment,), _ = extract(Drive(controller="pid"))
    assert segment.info["target"] == "desiredCurvature * vEgo^2"
    assert segment.table[300, 4] == pytest.approx(target(30.0), abs=1e-3)
    (segment,), _ = extract(Drive(version=1))
    assert segment.info["target_is_delayed"]


def test_clock_faults() -> None:
    segments, report = extract(Drive(clock=lambda t: t + 5000.0 * (t == 20.0)))
    assert spans(segments) == [(0.0, 600)]  # one row is interpolated over
    assert report.skipped == {"carState with a wrong clock": 1}
    for step in (-50.0, 3600.0):
        segments, report = extract(
            Drive(seconds=180.0, clock=lambda t, step=step: t if t < 100 else t + step)  # type: ignore[misc]
        )
        assert report.skipped["jump of the clock"] == 1
        assert spans(segments)[:2] == [(0.0, 600), (60.0, pytest.approx(401, abs=4))]
        assert len(segments[2].table) == 600
        assert all(np.diff(s.table[:, 1]).min() >= 0 for s in segments)  # speed only grows
    segments, report = extract(Drive(seconds=120.0, clock=lambda t: t if t < 30 else t + 4.0))
    assert report.skipped["gap in the log"] == 1
    assert spans(segments)[1] == (34.0, 600)


def test_missing_and_broken_fields() -> None:
    for kind in ("liveParameters", "carControl", "controlsState", "carState"):
        segments, report = extract(Drive(without=(kind,)))
        assert not segments
        assert report.skipped[f"the log has no {kind}"] == 1
    nan = Drive(seconds=60.0, clock=lambda t: t)
    from tests.surrogates.logs import log_writer

    data = b""
    for kind, message in log_writer.messages(nan):
        if kind == "carState" and message.logMonoTime == log_writer.START + 30_000_000_000:
            message.carState.vEgo = float("nan")
        data += message.to_bytes()
    segments, report = extract(data)
    assert spans(segments) == [(0.0, 600)]
    assert report.skipped == {"carState with a value that is not finite": 1}
    assert segments[0].table[300, 1] == pytest.approx(speed(30.0), abs=1e-5)


def test_truncated_log_keeps_its_start() -> None:
    data = log(Drive())
    segments, report = extract(data[: len(data) // 2])
    assert "breaks off" in report.log.damage
    (only,) = spans(segments)
    assert only == (0.0, pytest.approx(303, abs=5))
    assert extract(b"")[1].log.damage == "the log is empty"


def test_options_are_checked() -> None:
    for options, word in (
        (ExtractOptions(min_seconds=0.0), "min_seconds=0"),
        (ExtractOptions(min_seconds=61.0), "min_seconds=61"),
        (ExtractOptions(settle_seconds=-1.0), "negative"),
        (ExtractOptions(roll_source="liveParameter"), "did you mean 'liveParameters'"),
    ):
        with pytest.raises(InputError, match=word):
            extract(b"", options)


def test_files(tmp_path: Path) -> None:
    segments, report = extract(Drive(seconds=120.0))
    save_segments(tmp_path / "a.npz", segments, report)
    tables, meta = load_labels(tmp_path / "a.npz")
    for table, segment in zip(tables, segments, strict=True):
        np.testing.assert_array_equal(table, segment.table)
    assert meta["report"]["rows"] == {"good": 1200}
    assert meta["report"]["openpilot"]["gitCommit"] == "abc123def"
    save_segments(tmp_path / "none.npz", [], report)
    assert load_labels(tmp_path / "none.npz")[0] == []
    write_csv(tmp_path / "00000.csv", tables[0])
    text = (tmp_path / "00000.csv").read_text().splitlines()
    assert text[0] == "t,vEgo,aEgo,roll,targetLateralAcceleration,steerCommand"
    assert text[2].startswith("0.1,20.0")
    back = np.genfromtxt(tmp_path / "00000.csv", delimiter=",", skip_header=1)
    np.testing.assert_array_equal(back, tables[0][:, :6])
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="not a label file"):
        load_labels(tmp_path / "bad.npz")
