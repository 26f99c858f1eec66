"""Logs for the tests: the messages of a drive, written with pycapnp."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlab.surrogates.logs.reader import Schema

START = 5_000_000_000_000  # ns, of the first carState
ROUTE_START = START - 600_000_000_000  # initData is as old as the route


def speed(t: float) -> float:
    return 20.0 + 0.05 * t


def roll(t: float) -> float:
    return 0.02 - 0.0004 * t


def target(t: float) -> float:
    return -0.5 + 0.015 * t


def torque(t: float) -> float:
    return 0.3 - 0.009 * t


@dataclass(frozen=True)
class Drive:
    """What is logged. Times are seconds after the first carState."""

    seconds: float = 60.0
    rate: int = 10  # Hz of the car messages: 10 in a qlog, 100 in an rlog
    pressed: tuple[float, float] = (-1.0, -1.0)  # the driver steers in this interval
    inactive: tuple[float, float] = (-1.0, -1.0)
    fault: tuple[float, float] = (-1.0, -1.0)
    controller: str = "torque"
    version: int = 0
    clock: Callable[[float], float] = lambda t: t  # logged seconds at true seconds
    without: tuple[str, ...] = ()  # kinds that are left out
    roll_from: float = 0.0  # s, when liveParameters begin
    noise: int = 0  # unneeded messages before each carState


def messages(drive: Drive, schema: Schema | None = None) -> Iterator[tuple[str, Any]]:
    """Yield kind and message builder in the order of a log."""
    event = (schema or Schema()).event

    def new(kind: str, t: float) -> tuple[Any, Any]:
        message = event.new_message()
        message.logMonoTime = START + round(drive.clock(t) * 1e9)
        return message, message.init(kind)

    def inside(interval: tuple[float, float], t: float) -> bool:
        return interval[0] <= t < interval[1]

    first, init = new("initData", 0.0)
    first.logMonoTime = ROUTE_START
    init.gitCommit, init.version, init.dongleId = "abc123def", "0.10.1", "0123456789abcdef"
    yield "initData", first
    steps = round(drive.seconds * drive.rate)
    for step in range(steps):
        t = step / drive.rate
        for _ in range(drive.noise):
            yield "noise", new("sentinel", t)[0]
        active = not inside(drive.inactive, t)
        message, car = new("carState", t)
        car.vEgo, car.aEgo = speed(t), 0.05
        car.steeringPressed = inside(drive.pressed, t)
        car.steerFaultTemporary = inside(drive.fault, t)
        car.steeringTorque = 3.0
        yield "carState", message
        message, control = new("carControl", t + 0.002)
        control.latActive = active
        control.actuators.torque = torque(t + 0.002)
        angles = control.init("orientationNED", 3)
        angles[0] = roll(t) + 0.1
        yield "carControl", message
        message, state = new("controlsState", t + 0.003)
        state.desiredCurvature = target(t + 0.003) / speed(t + 0.003) ** 2
        state.curvature = state.desiredCurvature
        union = state.lateralControlState
        if drive.controller == "torque":
            inner = union.init("torqueState")
            inner.active, inner.version = active, drive.version
            inner.desiredLateralAccel = target(t + 0.003) if active else 0.0
            inner.actualLateralAccel = target(t + 0.003) - 0.1
        else:
            union.init(f"{drive.controller}State")
        yield "controlsState", message
        if step % max(drive.rate // 4, 1) == 0:
            if t >= drive.roll_from:
                message, parameters = new("liveParameters", t + 0.004)
                parameters.roll = roll(t + 0.004)
                yield "liveParameters", message
            message, delay = new("liveDelay", t + 0.004)
            delay.lateralDelay = 0.25
            yield "liveDelay", message


def log(drive: Drive, schema: Schema | None = None) -> bytes:
    """Return the bytes of an uncompressed log."""
    kept = (m.to_bytes() for kind, m in messages(drive, schema) if kind not in drive.without)
    return b"".join(kept)


def full_schema(table: Path, folder: Path) -> Path:
    """Write openpilot's names and layout, as the reference table lists them, as a log.capnp."""
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    structs = {r["struct_name"] for r in rows}
    flat = {name: name.replace(".", "") for name in structs}
    flat["LiveLocationKalman.Measurement"] = "KalmanMeasurement"
    lines = ["@0xa5b3e8d91c47f260;"]
    for name in sorted(structs):
        lines.append(f"struct {flat[name]} {{")
        lines += _members([r for r in rows if r["struct_name"] == name], name, flat)
        lines.append("}")
    path = folder / "log.capnp"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _members(rows: list[dict[str, str]], struct: str, flat: dict[str, str]) -> list[str]:
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row["ordinal"]:
            groups.setdefault(row["union_or_group"].partition("(")[0], []).append(row)
    lines: list[str] = []
    taken = {int(r["ordinal"]) for r in rows if r["ordinal"]}
    # Ordinals that the table leaves out are at the end of a cut struct; gaps would not compile.
    assert taken == set(range(max(taken) + 1)) or struct == "CarParams", struct
    for where, members in groups.items():
        body = [f"{r['field_name']} @{r['ordinal']} :{_type(r['type'], flat)};" for r in members]
        if where == "union":
            lines += ["union {", *body, "}"]
        elif where.startswith("group"):
            name, _, union = where.removeprefix("group ").partition(" ")
            opened = f"{name} :union {{" if union else f"{name} :group {{"
            lines += [opened, *body, "}"]
        else:
            lines += body
    return lines


def _type(text: str, flat: dict[str, str]) -> str:
    base, _, default = text.partition("=")
    base = base.strip()
    if base.startswith("enum"):
        return "UInt16"
    if base.startswith("struct"):
        name = base.split()[1]
        return flat.get(name, "AnyPointer")
    if base.startswith("List("):
        inner = base[5:-1]
        return base if inner in ("Float32", "Float64", "UInt64", "Text") else "AnyPointer"
    return base + (f" = {default.strip()}" if default else "")
