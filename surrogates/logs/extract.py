"""Logs to segments: one-minute stretches of automatic steering on an exact 0.1 s grid.

A log is cut into minutes from its first carState. In each minute every row of the grid is judged:
was lateral control active, did the driver keep his hands off, was every signal fresh? Each longest
stretch of good rows is a segment if it is long enough, so an override ends a segment there and a
new one may begin after it.

Signs are those of the public data set: ``steerCommand`` is the logged torque, positive to the left;
lateral accelerations are positive to the right, roll is positive with the right side down.
"""

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.errors import InputError, unknown_name
from steerlab.files import atomic_path
from steerlab.readers.arrays import read_arrays, require, write_arrays
from steerlab.readers.text import entry, parse_json
from steerlab.surrogates.logs.reader import LogReport, Message, Schema, read_log

DT = 0.1  # s
MINUTE_ROWS = 600
MINUTE = MINUTE_ROWS * DT
#: Columns of a segment: those of the public CSV format, then what else training can use.
COLUMNS = (
    "t",  # s
    "vEgo",  # m/s
    "aEgo",  # m/s^2
    "roll",  # rad
    "targetLateralAcceleration",  # m/s^2
    "steerCommand",  # -1..1, positive to the left
    "actualLateralAcceleration",  # m/s^2, measured by the steering angle
    "steerApplied",  # torque after the car's rate limits, NaN where it is not logged
    "steeringTorque",  # of the driver, in units of the car
)
CSV_COLUMNS = COLUMNS[:6]
ROLL_SOURCES = ("liveParameters", "carControl", "liveLocationKalman")

_MAX_AGE = 0.3  # s, oldest value that a row may hold, or longest gap that is interpolated over
_MAX_AGE_ROLL = 0.6  # liveParameters comes at 4 Hz in a qlog, and one message may be lost
_LATE_ROLL = 2.0  # s by which the first roll of a log may be late: it is held backwards
_JUMP = 2.0  # s between carStates that no log shows without a fault of the clock or the log
_SLACK = 1.0  # s by which messages may be out of order
_BUFFER = 20_000  # messages of a kind that are held at the most: three minutes at 100 Hz
_WITH_TORQUE = {"torque", "pid", "indi", "lqr"}


@dataclass(frozen=True)
class ExtractOptions:
    """What counts as a segment."""

    min_seconds: float = 54.9  # shortest segment that is kept: 549 rows, which the simulator needs
    min_speed: float = 0.0  # m/s, slower rows end a segment
    settle_seconds: float = 1.0  # after an override or a loss of control
    roll_source: str = "liveParameters"

    def check(self) -> None:
        """Raise InputError if an option is out of range."""
        if not 0 < self.min_seconds <= MINUTE:
            raise InputError(f"min_seconds={self.min_seconds} must be in (0, {MINUTE:g}]")
        if self.settle_seconds < 0 or self.min_speed < 0:
            raise InputError("min_speed and settle_seconds must not be negative")
        if self.roll_source not in ROLL_SOURCES:
            raise unknown_name("roll_source", self.roll_source, ROLL_SOURCES)


@dataclass(frozen=True)
class Segment:
    """A stretch of automatic steering.

    Attributes:
        table: (rows, 9) float64, columns as in :data:`COLUMNS`.
        start: When it begins, s after the first carState of the log.
        info: Controller, meaning of the target, the car's delay and gain as far as logged.
    """

    table: NDArray[np.float64]
    start: float
    info: dict[str, Any]


@dataclass
class ExtractReport:
    """What became of a log.

    Attributes:
        log: What could be read.
        rows: Rows of the grid by what was wrong with them ("good" included).
        skipped: Why whole parts were left out, with counts.
        init: Version, branch and commit of openpilot, and when the drive began, ns.
        first: When the first carState was, ns on the same clock.
    """

    log: LogReport = field(default_factory=LogReport)
    rows: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    init: dict[str, Any] = field(default_factory=dict)
    first: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "messages": dict(sorted(self.log.messages.items())),
            "unneeded_messages": self.log.skipped,
            "unknown_messages": self.log.unknown,
            "malformed_messages": self.log.malformed,
            "damage": self.log.damage,
            "rows": dict(sorted(self.rows.items())),
            "skipped": dict(sorted(self.skipped.items())),
            "openpilot": self.init,
            "first": self.first,
        }


def extract_log(
    chunks: Iterable[bytes],
    options: ExtractOptions,
    report: ExtractReport | None = None,
    schema: Schema | None = None,
) -> Iterator[Segment]:
    """Yield the segments of one log, holding one minute of signals at a time.

    Args:
        chunks: Bytes of the log, see :func:`steerlab.surrogates.logs.file_chunks`.
        options: What counts as a segment.
        report: Filled while reading.
        schema: Where the values lie; our own schema by default.

    Raises:
        InputError: An option is out of range.
    """
    options.check()
    report = ExtractReport() if report is None else report
    cutter = SegmentBuilder(options, report)
    for message in read_log(chunks, report.log, schema):
        yield from cutter.add(message)
    yield from cutter.finish()
    for kind in cutter.needed:
        if not report.log.messages[kind]:
            report.skipped[f"the log has no {kind}"] += 1


class SegmentBuilder:
    """Collects signals and turns each complete minute into segments."""

    def __init__(self, options: ExtractOptions, report: ExtractReport) -> None:
        self.options, self.report = options, report
        self.needed = tuple(
            dict.fromkeys(("carState", "carControl", "controlsState", options.roll_source))
        )
        kinds = (*self.needed, "carOutput", "liveTorqueParameters", "liveDelay")
        self.signals = {k: deque[Message](maxlen=_BUFFER) for k in dict.fromkeys(kinds)}
        self.last: Message | None = None  # newest carState
        self.strange: Message | None = None  # a carState whose clock does not fit
        self.anchor: int | None = None  # ns, where the grid of this piece of the log begins
        self.minute = 0  # complete minutes of this piece
        self.offset = 0.0  # s of the log before this piece

    def add(self, message: Message) -> Iterator[Segment]:
        """Take one message; yield the segments of a minute that it completes."""
        if message.kind == "initData":
            self.report.init = {**message.values, "time": message.time}
        if message.kind not in self.signals:
            return
        if not _finite(message):
            self.report.skipped[f"{message.kind} with a value that is not finite"] += 1
            return
        if message.kind != "carState":
            self.signals[message.kind].append(message)
            return
        if self.last is not None and not _near(message, self.last):
            if self.strange is None or not _near(message, self.strange):
                self._count_outlier()
                self.strange = message  # alone, or the first after a jump: the next one decides
                return
            yield from self._jump(self.last, self.strange)
        self._count_outlier()
        if self.report.first is None:
            self.report.first = message.time
        self.signals["carState"].append(message)
        self.last = message
        first = self.signals["carState"][0].time if self.anchor is None else self.anchor
        if message.time > first + (MINUTE * (self.minute + 1) + _SLACK) * 1e9:
            yield from self._cut()

    def finish(self) -> Iterator[Segment]:
        """Yield the segments of what has been collected so far."""
        self._count_outlier()
        while self.last is not None:
            yield from self._cut()
            assert self.anchor is not None
            if self.last.time < self.anchor + MINUTE * self.minute * 1e9:
                break

    def _count_outlier(self) -> None:
        if self.strange is not None:
            self.report.skipped["carState with a wrong clock"] += 1
            self.strange = None

    def _jump(self, last: Message, strange: Message) -> Iterator[Segment]:
        """End the piece before a jump of the clock and begin another one after it."""
        seconds = (strange.time - last.time) / 1e9
        gap = 0 < seconds < MINUTE
        self.report.skipped["gap in the log" if gap else "jump of the clock"] += 1
        self.strange = None
        yield from self.finish()
        start = last.time if self.anchor is None else self.anchor
        self.offset += (last.time - start) / 1e9 + (seconds if gap else 0.0)
        for signal in self.signals.values():
            kept = [m for m in signal if abs(m.time - strange.time) <= _JUMP * 1e9]
            signal.clear()
            signal.extend(kept)
        self.signals["carState"].clear()
        self.signals["carState"].append(strange)
        self.anchor, self.minute = None, 0

    def _cut(self) -> Iterator[Segment]:
        """Turn the current minute into segments and forget its messages."""
        if self.anchor is None:
            self.anchor = min(m.time for m in self.signals["carState"])
        begin = MINUTE * self.minute
        grid = begin + DT * np.arange(MINUTE_ROWS)
        signals = {kind: _Signal(messages, self.anchor) for kind, messages in self.signals.items()}
        newest = signals["carState"].times[-1]
        grid = grid[grid <= newest + _MAX_AGE]
        if grid.size:
            yield from self._segments(grid, signals)
        self.minute += 1
        keep = self.anchor + (begin + MINUTE - _SLACK) * 1e9
        for kind, messages in self.signals.items():
            slow = kind in ("liveTorqueParameters", "liveDelay")
            late = [m for m in messages if m.time >= keep] or list(messages)[-1:] * slow
            messages.clear()
            messages.extend(late)

    def _segments(
        self, grid: NDArray[np.float64], signals: dict[str, "_Signal"]
    ) -> Iterator[Segment]:
        if any(not signals[kind].times.size for kind in self.needed):
            self.report.rows["signal missing"] += grid.size
            return
        info = _info(signals)
        table = _table(grid, signals, info, self.options.roll_source)
        verdicts = self._judge(grid, signals, info, table)
        self.report.rows.update(verdicts.tolist())
        good = np.concatenate([[False], verdicts == "good", [False]])
        edges = np.flatnonzero(good[1:] != good[:-1])
        shortest = round(self.options.min_seconds / DT)
        for start, end in edges.reshape(-1, 2):
            if end - start < shortest:
                self.report.skipped["stretch shorter than min_seconds"] += 1
                self.report.rows["good"] -= int(end - start)
                self.report.rows["good, but too few in a row"] += int(end - start)
                continue
            rows = table[start:end].copy()
            rows[:, 0] = np.round(np.arange(end - start) * DT, 1)
            yield Segment(rows, round(self.offset + float(grid[start]), 3), info)

    def _judge(
        self,
        grid: NDArray[np.float64],
        signals: dict[str, "_Signal"],
        info: dict[str, Any],
        table: NDArray[np.float64],
    ) -> NDArray[np.str_]:
        """Return for each row "good" or the first thing that is wrong with it."""
        car, control, state = (signals[k] for k in ("carState", "carControl", "controlsState"))
        controller = state.column("controller")
        wrong = controller != info["controller"]
        if info["controller"] not in _WITH_TORQUE:
            wrong[:] = True
        off = state.column("active") == False if info["controller"] == "torque" else wrong
        idle = ~control.column("latActive")
        pressed = car.column("steeringPressed")
        faulty = car.column("steerFaultTemporary") | car.column("steerFaultPermanent")
        fresh = np.ones(grid.size, dtype=bool)
        for kind in self.needed:
            slow = kind == self.options.roll_source and kind != "carControl"
            late = _LATE_ROLL if slow and not self.minute else 0.0
            fresh &= signals[kind].fresh(grid, _MAX_AGE_ROLL if slow else _MAX_AGE, late)
        settle = self.options.settle_seconds
        recent = [state.recent(grid, off, settle), control.recent(grid, idle, settle)]
        recent += [car.recent(grid, pressed, settle), car.recent(grid, faulty, settle)]
        tests = (
            ("signal missing", ~fresh | ~np.isfinite(table[:, 1:6]).all(axis=1)),
            (f"no torque control ({info['controller']})", state.recent(grid, wrong, DT)),
            (
                "lateral control off",
                control.recent(grid, idle, DT) | state.recent(grid, off, DT),
            ),
            ("driver steers", car.recent(grid, pressed, DT)),
            ("steering fault", car.recent(grid, faulty, DT)),
            ("settling", np.any(recent, axis=0)),
            ("too slow", table[:, 1] < self.options.min_speed),
        )
        return np.select([test for _, test in tests], [name for name, _ in tests], "good")


class _Signal:
    """The messages of one kind in the order of time."""

    def __init__(self, messages: Iterable[Message], anchor: int) -> None:
        self.messages = sorted(messages, key=lambda m: m.time)
        self.times = np.array([(m.time - anchor) / 1e9 for m in self.messages])

    def column(self, name: str) -> NDArray[Any]:
        return np.array([m.values.get(name) for m in self.messages])

    def at(self, grid: NDArray[np.float64], values: NDArray[Any]) -> NDArray[np.float64]:
        """Return values between messages, and the nearest one before the first and after the last."""
        if not self.times.size:
            return np.full(grid.size, np.nan)
        return np.interp(grid, self.times, values.astype(np.float64))

    def fresh(self, grid: NDArray[np.float64], age: float, late: float = 0.0) -> NDArray[np.bool_]:
        """Return whether messages around each row are at most ``age`` apart, or that near.

        Before the first message, it may come ``late`` after the row.
        """
        times = np.concatenate([[-np.inf], self.times, [np.inf]])
        after = np.searchsorted(times, grid, side="right")
        before, behind = times[after - 1], times[after]
        nearest = np.minimum(grid - before, behind - grid)
        inner = np.isfinite(before) & np.isfinite(behind)
        fresh = np.where(inner, behind - before, nearest) <= age + 1e-9
        return fresh | (np.isneginf(before) & (behind - grid <= late + 1e-9))

    def recent(
        self, grid: NDArray[np.float64], flags: NDArray[np.bool_], seconds: float
    ) -> NDArray[np.bool_]:
        """Return whether the message before each row, or one in the last ``seconds``, is flagged."""
        place = np.searchsorted(self.times, grid, side="right") - 1
        held = flags[place.clip(min=0)]
        flagged = np.concatenate([[-np.inf], self.times[flags]])
        latest = flagged[np.searchsorted(flagged, grid, side="right") - 1]
        return held | (grid - latest < max(seconds, DT) - 1e-9)


def _table(
    grid: NDArray[np.float64], signals: dict[str, _Signal], info: dict[str, Any], source: str
) -> NDArray[np.float64]:
    """Return the columns of :data:`COLUMNS` on the grid."""
    car, control, state = (signals[k] for k in ("carState", "carControl", "controlsState"))
    speed = car.at(grid, car.column("vEgo"))
    if info["controller"] == "torque":
        target, actual = (
            state.at(grid, state.column(name))
            for name in ("desiredLateralAccel", "actualLateralAccel")
        )
    else:
        target, actual = (
            state.at(grid, state.column(name)) * speed**2
            for name in ("desiredCurvature", "curvature")
        )
    roll = signals[source]
    if source == "liveParameters":
        angles = roll.column("roll")
    else:  # a list that is empty until the device is calibrated
        lists = [m.values["orientationNED"] for m in roll.messages]
        angles = np.array([angle[0] if angle else np.nan for angle in lists])
    output = signals["carOutput"]
    return np.stack(
        [
            grid,
            speed,
            car.at(grid, car.column("aEgo")),
            roll.at(grid, angles),
            target,
            control.at(grid, control.column("torque")),
            actual,
            output.at(grid, output.column("torque")),
            car.at(grid, car.column("steeringTorque")),
        ],
        axis=1,
    )


def _info(signals: dict[str, _Signal]) -> dict[str, Any]:
    """Return what a minute shows about the car and about the meaning of its target."""
    states = signals["controlsState"].messages
    controller = Counter(m.values["controller"] for m in states).most_common(1)[0][0]
    info: dict[str, Any] = {"controller": controller, "target": "desiredCurvature * vEgo^2"}
    if controller == "torque":
        version = next(m.values["version"] for m in states if m.values["controller"] == "torque")
        info["target"] = "desiredLateralAccel"
        # From version 1 on it is the request of one lateral delay ago, beside the measurement.
        info["target_is_delayed"] = version >= 1
    for kind, names in (
        ("liveDelay", ("lateralDelay",)),
        ("liveTorqueParameters", ("latAccelFactor", "friction")),
    ):
        messages = signals[kind].messages
        info |= {name: messages[-1].values[name] if messages else None for name in names}
    return info


def _near(one: Message, other: Message) -> bool:
    return abs(one.time - other.time) <= _JUMP * 1e9


def _finite(message: Message) -> bool:
    """Return whether every number of a message is finite."""
    for value in message.values.values():
        if isinstance(value, tuple):
            if not all(map(isfinite, value)):
                return False
        elif isinstance(value, float) and not isfinite(value):
            return False
    return True


def save_segments(
    path: str | Path,
    segments: list[Segment],
    report: ExtractReport,
    log: Mapping[str, Any] | None = None,
) -> None:
    """Write the segments of one log as label arrays (.npz), with its report inside.

    Args:
        path: The file.
        segments: The segments.
        report: What became of the log.
        log: What is known of the file that they come from.
    """
    tables = [s.table for s in segments]
    meta = {
        "columns": COLUMNS,
        "segments": [{"start": s.start, "rows": len(s.table), **s.info} for s in segments],
        "report": report.as_dict(),
        "log": dict(log or {}),
    }
    arrays = {
        "table": np.concatenate(tables) if tables else np.zeros((0, len(COLUMNS))),
        "ends": np.cumsum([len(t) for t in tables], dtype=np.int64),
        "meta": json.dumps(meta),
    }
    write_arrays(path, arrays, compressed=True)


def load_labels(path: str | Path) -> tuple[list[NDArray[np.float64]], dict[str, Any]]:
    """Read a label file: the tables (rows, 9) of its segments and the report.

    Raises:
        InputError: It is no such file.
    """
    try:
        table, ends, meta = require(read_arrays(path), ("table", "ends", "meta"), path)
        described = _described(meta, repr(str(path)))
    except InputError as error:
        raise InputError(
            f"{str(path)!r} is not a label file ({error}); delete it and extract again"
        ) from error
    whole = [0, *ends.tolist()] if ends.ndim == 1 and ends.dtype.kind == "i" else [0, -1]
    if (
        table.ndim != 2
        or table.shape[1] != len(COLUMNS)
        or table.dtype != np.float64
        or whole != sorted(whole)
        or whole[-1] != len(table)
        or len(described["segments"]) != len(ends)
    ):
        raise InputError(
            f"{str(path)!r} is not a label file (tables {table.dtype} {table.shape}, ends "
            f"{ends.dtype} {ends.shape}); delete it and extract again"
        )
    return np.split(table, ends[:-1]) if ends.size else [], described


def _described(meta: NDArray[Any], source: str) -> dict[str, Any]:
    """Return what a label file says of its segments and of its log."""
    found = parse_json(str(meta), source)
    for segment in entry(found, "segments", list, source):
        start = entry(segment, "start", (int, float), source)
        if not (isfinite(start) and start >= 0):
            raise InputError(f"{source}: a segment starts at {start}")
    report = entry(found, "report", dict, source)
    for name in ("rows", "skipped"):
        for kind in entry(report, name, dict, source):
            entry(report[name], kind, int, source)
    for name in ("unknown_messages", "malformed_messages"):
        entry(report, name, int, source)
    entry(report, "damage", str, source)
    entry(report, "openpilot", dict, source)
    return dict(found)


def write_csv(path: str | Path, table: NDArray[np.float64]) -> None:
    """Write one segment in the public CSV format, in full precision."""
    with atomic_path(path) as temporary:
        np.savetxt(
            temporary,
            table[:, : len(CSV_COLUMNS)],
            fmt=["%.1f"] + ["%.17g"] * 5,
            delimiter=",",
            header=",".join(CSV_COLUMNS),
            comments="",
        )
