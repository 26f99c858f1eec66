"""Reading logs: wire layout, compression, and what is left of a damaged log."""

import bz2
import csv
import io
from pathlib import Path

import pytest

capnp = pytest.importorskip("capnp")
zstandard = pytest.importorskip("zstandard")

from steerlab.errors import InputError
from steerlab.surrogates.logs.reader import (
    SCHEMA_FILE,
    LogReport,
    Message,
    Schema,
    file_chunks,
    read_log,
)
from tests.surrogates.logs.log_writer import START, Drive, full_schema, log

#: openpilot's wire layout of what is read (2024-09 to 2026-07): bits in the data section.
LAYOUT = {
    "Event": {"logMonoTime": "D0:64", "valid": "D80:1"},
    "CarState": {
        "vEgo": "D0:32",
        "steeringTorque": "D160:32",
        "steeringPressed": "D66:1",
        "aEgo": "D224:32",
        "steerFaultTemporary": "D354:1",
        "steerFaultPermanent": "D355:1",
    },
    "CarControl": {"actuators": "P2", "latActive": "D2:1", "orientationNED": "P4"},
    "Actuators": {"torque": "D64:32"},
    "CarOutput": {"actuatorsOutput": "P0"},
    "ControlsState": {"curvature": "D1088:32", "desiredCurvature": "D1408:32"},
    "TorqueState": {
        "active": "D0:1",
        "saturated": "D1:1",
        "actualLateralAccel": "D256:32",
        "desiredLateralAccel": "D288:32",
        "version": "D352:32",
    },
    "LiveParameters": {"roll": "D384:32"},
    "LiveLocationKalman": {"orientationNED": "P7"},
    "Measurement": {"value": "P0"},
    "LiveTorqueParameters": {
        "latAccelFactorFiltered": "D128:32",
        "frictionCoefficientFiltered": "D192:32",
    },
    "LiveDelay": {"lateralDelay": "D0:32"},
    "InitData": {
        "dongleId": "P2",
        "version": "P3",
        "dirty": "D16:1",
        "gitCommit": "P8",
        "gitBranch": "P9",
        "gitRemote": "P10",
    },
}
WIDTHS = {"bool": 1, "int32": 32, "float32": 32, "uint64": 64}


def where(field: object) -> str:
    proto = field.proto  # type: ignore[attr-defined]
    kind = str(proto.slot.type.which())
    if kind in WIDTHS:
        return f"D{proto.slot.offset * WIDTHS[kind]}:{WIDTHS[kind]}"
    return f"P{proto.slot.offset}"


def read(data: bytes, schema: Schema | None = None) -> tuple[list[Message], LogReport]:
    report = LogReport()
    return list(read_log([data], report, schema)), report


@pytest.mark.parametrize("struct", LAYOUT)
def test_wire_layout(struct: str) -> None:
    fields = getattr(capnp.SchemaParser().load(str(SCHEMA_FILE)), struct).schema.fields
    assert {name: where(fields[name]) for name in LAYOUT[struct]} == LAYOUT[struct]


def test_tags_are_those_of_openpilot(shared: Path) -> None:
    with (shared / "reference/capnp_layout.csv").open(encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["struct_name"] == "Event"]
    tags = {int(r["discriminant_value"]): r["field_name"] for r in rows if r["discriminant_value"]}
    for tag, kind in Schema().kinds.items():
        assert tags[tag].removesuffix("DEPRECATED") == kind.name


def test_openpilots_own_schema_reads_the_same(shared: Path, tmp_path: Path) -> None:
    full = Schema(full_schema(shared / "reference/capnp_layout.csv", tmp_path))
    data = log(Drive(3.0, noise=1))
    messages, report = read(data, full)
    assert (messages, report.skipped) == (read(data)[0], 30)
    written = full.event.new_message()
    written.init("controlsState").lateralControlState.init("torqueState").desiredLateralAccel = 1.5
    written.controlsState.desiredCurvature = 0.25
    values = read(written.to_bytes())[0][0].values  # theirs, read by ours
    assert (values["desiredLateralAccel"], values["desiredCurvature"]) == (1.5, 0.25)


def test_values_and_order() -> None:
    messages, report = read(log(Drive(1.0, noise=2)))
    assert report.skipped == 20
    assert report.messages["carState"] == 10
    first = next(m for m in messages if m.kind == "carState")
    assert first.time == START
    assert first.values["vEgo"] == 20.0
    assert not first.values["steeringPressed"]
    state = next(m for m in messages if m.kind == "controlsState").values
    assert state["controller"] == "torque"
    assert state["active"]
    init = messages[0].values
    assert (init["gitCommit"], init["version"]) == ("abc123def", "0.10.1")


@pytest.mark.parametrize("pieces", [1, 7, 1000])
@pytest.mark.parametrize("form", ["plain", "bz2", "zst", "zst-stream", "bz2-twice"])
def test_compression_is_told_from_the_bytes(form: str, pieces: int) -> None:
    plain = log(Drive(1.0))
    stream = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(stream, closefd=False) as writer:
        writer.write(plain)  # as openpilot writes: without the size of the content
    half = len(plain) // 16 * 8
    data = {
        "plain": plain,
        "bz2": bz2.compress(plain),
        "zst": zstandard.compress(plain),
        "zst-stream": stream.getvalue(),
        "bz2-twice": bz2.compress(plain[:half]) + bz2.compress(plain[half:]),
    }[form]
    size = -(-len(data) // pieces)
    report = LogReport()
    chunks = (data[i : i + size] for i in range(0, len(data), size))
    assert list(read_log(chunks, report)) == read(plain)[0]
    assert report.damage == ""


def test_truncated_log_keeps_what_parsed() -> None:
    plain = log(Drive(1.0))
    whole = read(plain)[0]
    for data in (plain[:-3], zstandard.compress(plain)[:-20], bz2.compress(plain)[:-20]):
        messages, report = read(data)
        assert messages == whole[: len(messages)]
        assert "break" in report.damage
    assert len(read(plain[:-3])[0]) == len(whole) - 1


def test_empty_and_corrupt_logs() -> None:
    assert read(b"")[1].damage == "the log is empty"
    assert "no message starts at byte 0" in read(b"\xff" * 100)[1].damage
    plain = log(Drive(1.0))
    messages, report = read(plain[: len(plain) // 16 * 8] + b"\xff" * 4000)
    assert messages
    assert "no message starts" in report.damage or report.malformed
    packed = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(plain))
    packed[len(packed) // 2] ^= 0xFF
    assert read(bytes(packed))[1].damage
    assert "damaged" in read(bz2.compress(plain)[:50] + b"\0" * 60)[1].damage


def test_malformed_and_unknown_messages_are_counted() -> None:
    schema = Schema()
    good = log(Drive(0.2), schema)
    newer = schema.event.new_message()
    newer.init("liveDelay")
    data = bytearray(newer.to_bytes())
    tag = next(t for t, k in schema.kinds.items() if k.name == "liveDelay").to_bytes(2, "little")
    data[data.index(tag, 24) : data.index(tag, 24) + 2] = (900).to_bytes(2, "little")
    messages, report = read(good + bytes(data) + good)
    assert report.unknown == 1
    assert messages == read(good + good)[0]
    state = schema.event.new_message()
    state.init("carControl").actuators.torque = 0.5
    broken = bytearray(state.to_bytes())
    broken[-48:] = b"\xfd" * 48  # pointers into nowhere
    messages, report = read(good + bytes(broken) + good)
    assert report.malformed == 1
    assert messages == read(good + good)[0]


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read log"):
        list(file_chunks(tmp_path / "none"))
    with pytest.raises(InputError, match="no schema"):
        Schema(tmp_path / "none.capnp")
    (tmp_path / "log.capnp").write_text("@0xb7d3f1c84e2a9066; struct Event { a @0 :Text; }")
    with pytest.raises(InputError, match="not openpilot's log schema"):
        Schema(tmp_path)
