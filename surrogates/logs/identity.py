"""Which drive and minute a log is: by its name where that says it, else by its contents.

Every log of a drive begins with the same ``initData`` message, whose time is that of the start of the
drive. So device and that time name the drive, and the time of the first carState names the minute.
Two logs of one drive that hold the same values at the same time are one log, as an rlog and its qlog
are; two files with the same bytes are one anyway. Logs that only seem to be of one drive, since they
hold other values at the same time, are kept as two.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TOLERANCE = np.array([0.1, 0.05])  # of speed (m/s) and steer between an rlog and its qlog
_COMMON = 20  # rows at the same time that show whether two logs are one


@dataclass
class Labelled:
    """What was extracted from a log, and what is known of where it belongs.

    Attributes:
        key: Name of its label file.
        tables: Its segments, (rows, 9) each.
        meta: What the label file says.
        route: Name of its drive.
        minute: Minute of the drive in which it begins.
    """

    key: str
    tables: list[NDArray[np.float64]]
    meta: dict[str, Any]
    route: str = ""
    minute: int = 0

    @property
    def log(self) -> dict[str, Any]:
        """What is known of the file: route, number, named, numbered, sha256, place."""
        route, _, number = self.key.rpartition("--")
        told = {"route": route, "number": int(number) if number.isdigit() else 0}
        found: dict[str, Any] = told | self.meta.get("log", {})
        return found

    @property
    def drive(self) -> str:
        """A name of the drive from the contents, empty if they do not show it."""
        init = self.meta["report"]["openpilot"]
        if "time" not in init:
            return ""
        text = f"{init.get('dongleId', '')} {init['time']}"
        return f"drive-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def first(self) -> float | None:
        """When its first carState was, s on the clock of the drive."""
        first = self.meta["report"].get("first")
        return None if first is None else first / 1e9

    @property
    def messages(self) -> int:
        """How many carStates it has: an rlog has more than its qlog."""
        return int(self.meta["report"]["messages"].get("carState", 0))


def identify(logs: Sequence[Labelled]) -> tuple[list[Labelled], list[tuple[str, str]]]:
    """Name drive and minute of each log, and leave out those that are another one once more.

    Args:
        logs: What was extracted; ``route`` and ``minute`` are filled in.

    Returns:
        The logs that are left, in the order of route and minute, and what was left out: keys, each
        with the reason.
    """
    ordered = sorted(logs, key=lambda log: (not log.log.get("named", True), log.key))
    kept, copies = _without_equal_files(ordered)
    _name(kept)
    groups: dict[str, list[Labelled]] = {}
    for log in sorted(kept, key=lambda log: (-log.messages, log.key)):
        group = groups.setdefault(log.route, [])
        other = next((o for o in group if _same_minute(log, o)), None)
        if other is not None:
            copies.append((log.key, f"the same minute as {other.key}"))
        elif log.drive and not log.log.get("named", True) and any(_meet(log, o) for o in group):
            log.route = f"{log.route}-{_short(log)}"  # of another drive after all
            groups.setdefault(log.route, []).append(log)
        else:
            group.append(log)
    left = [log for group in groups.values() for log in group]
    return sorted(left, key=lambda log: (log.route, log.minute, log.key)), copies


def _without_equal_files(
    logs: Sequence[Labelled],
) -> tuple[list[Labelled], list[tuple[str, str]]]:
    kept: dict[str, Labelled] = {}
    copies = []
    for log in logs:
        content = log.log.get("sha256") or log.key
        if content in kept and _may_be_one(log, kept[content]):
            copies.append((log.key, f"the same file as {kept[content].key}"))
        else:
            kept[content if content not in kept else log.key] = log
    return list(kept.values()), copies


def _may_be_one(one: Labelled, other: Labelled) -> bool:
    """Return whether the names of two logs do not say that they are different minutes."""
    return not all(
        log.log.get("named", True) and log.log.get("numbered", True) for log in (one, other)
    ) or ((one.log["route"], one.log["number"]) == (other.log["route"], other.log["number"]))


def _name(logs: Sequence[Labelled]) -> None:
    """Fill in routes and minutes."""
    named: dict[str, set[str]] = {}
    for log in logs:
        if log.log.get("named", True) and log.drive:
            named.setdefault(log.drive, set()).add(log.log["route"])
    for log in logs:
        told = log.log
        known = named.get(log.drive, set())
        if told.get("named", True):
            log.route = told["route"]
        elif len(known) == 1:
            log.route = next(iter(known))
        else:
            log.route = log.drive or f"{told['route']}-{_short(log)}"
        log.minute = told["number"]
        init = log.meta["report"]["openpilot"].get("time")
        if not told.get("numbered", True) and init is not None and log.first is not None:
            log.minute = max(int((log.first - init / 1e9) / 60 + 1e-3), 0)


def _short(log: Labelled) -> str:
    return str(log.log.get("sha256") or hashlib.sha256(log.key.encode()).hexdigest())[:12]


def _meet(one: Labelled, other: Labelled) -> bool:
    """Return whether two logs have rows at the same time."""
    return one.drive == other.drive and any(
        a[0] <= b[-1] and b[0] <= a[-1] for a, _ in _rows(one) for b, _ in _rows(other)
    )


def _same_minute(one: Labelled, other: Labelled) -> bool:
    """Return whether two logs hold the same values at the same time."""
    if one.drive != other.drive or not one.drive or not _may_be_one(one, other):
        return False
    common = 0
    for times, values in _rows(one):
        for others, wanted in _rows(other):
            inside = (times >= others[0]) & (times <= others[-1])
            for column in range(values.shape[1]):
                there = np.interp(times[inside], others, wanted[:, column])
                if (np.abs(there - values[inside, column]) > _TOLERANCE[column]).any():
                    return False
            common += int(inside.sum())
    return common >= _COMMON


def _rows(log: Labelled) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return times on the clock of the drive, and speed and steer, of each segment."""
    if log.first is None:
        return []
    return [
        (log.first + segment["start"] + table[:, 0], table[:, [1, 5]])
        for table, segment in zip(log.tables, log.meta["segments"], strict=True)
        if len(table)
    ]
