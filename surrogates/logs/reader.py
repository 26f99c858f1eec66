"""openpilot logs as a stream of the few messages that a steering plant is made of.

A log is a bare row of Cap'n Proto messages in standard framing, plain or compressed with bz2 or
zstandard. :func:`read_log` cuts the row into messages itself, looks at the union tag of each and
decodes only the wanted kinds, so its memory holds one message, whatever the length of the log.

What a damaged log still gives is kept: reading stops at the damage, and :class:`LogReport` says
where and why. Needs the extra ``logs`` (pycapnp, zstandard).
"""

import bz2
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from steerlab.errors import InputError

SCHEMA_FILE = Path(__file__).with_name("openpilot.capnp")

#: The kinds that are read: ordinal in the union of Event, and of each value the ordinals that lead
#: to it. Names change between openpilot releases, ordinals never do.
FIELDS: dict[str, tuple[int, dict[str, tuple[int, ...]]]] = {
    "initData": (
        1,
        {
            "dongleId": (2,),
            "version": (4,),
            "dirty": (9,),
            "gitCommit": (10,),
            "gitBranch": (11,),
            "gitRemote": (13,),
        },
    ),
    "controlsState": (7, {"curvature": (37,), "desiredCurvature": (61,)}),
    "carState": (
        22,
        {
            "vEgo": (1,),
            "steeringTorque": (8,),
            "steeringPressed": (9,),
            "aEgo": (16,),
            "steerFaultTemporary": (35,),
            "steerFaultPermanent": (36,),
        },
    ),
    "carControl": (23, {"torque": (6, 2), "latActive": (11,), "orientationNED": (13,)}),
    "liveParameters": (61, {"roll": (14,)}),
    "liveLocationKalman": (72, {"orientationNED": (7, 0)}),
    "liveTorqueParameters": (94, {"latAccelFactor": (4,), "friction": (6,)}),
    "carOutput": (127, {"torque": (0, 2)}),
    "liveDelay": (146, {"lateralDelay": (0,)}),
}
#: Values of controlsState's torqueState (ordinal 60), which cars under torque control have.
TORQUE_FIELDS = {
    "active": 0,
    "saturated": 7,
    "actualLateralAccel": 9,
    "desiredLateralAccel": 10,
    "version": 12,
}
#: Lateral controllers by their ordinal in ControlsState.
CONTROLLERS = {
    52: "indi",
    53: "pid",
    55: "lqr",
    58: "angle",
    59: "debug",
    60: "torque",
    65: "curvature",
}

_CHUNK = 1 << 16
_MAX_WORDS = 1 << 22  # of one message, 32 MiB: more is a damaged header
_MAX_SEGMENTS = 512
_PIECE = 1 << 10  # bytes given to a decompressor at once
_LARGEST = 1 << 30  # bytes of an unpacked log; a minute of an rlog has a tenth of that


class Message(NamedTuple):
    """One decoded message: its kind, its monotonic time in ns, and the values of FIELDS."""

    kind: str
    time: int
    values: dict[str, Any]


@dataclass
class LogReport:
    """What was in a log and what could not be read.

    Attributes:
        messages: How many messages of each wanted kind were decoded.
        skipped: Messages of kinds that are not needed.
        unknown: Messages of kinds newer than the schema.
        malformed: Messages whose frame was whole but whose contents could not be decoded.
        damage: Why reading stopped before the end, or empty.
    """

    messages: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    unknown: int = 0
    malformed: int = 0
    damage: str = ""


class _Kind(NamedTuple):
    name: str
    enter: Callable[[Any], Any]
    getters: Mapping[str, Callable[[Any], Any]]


class Schema:
    """Where the wanted values lie, found by ordinal in our schema or in openpilot's own.

    Args:
        path: ``log.capnp`` of an openpilot checkout, or its folder (``cereal``); None for the
            minimal schema that comes with steerlab.

    Raises:
        InputError: pycapnp is missing, or the file is not such a schema.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        capnp = _capnp()
        file = Path(path) if path else SCHEMA_FILE
        if file.is_dir():
            file = file / "log.capnp"
        if not file.is_file():
            raise InputError(f"there is no schema {str(file)!r}; give a log.capnp or leave it out")
        try:
            # A parser of its own: two schemas, or one loaded twice, would clash in the global one.
            self.parser = capnp.SchemaParser()
            module = self.parser.load(str(file), imports=[str(file.parent)])
            self.event = module.Event
            names = _names(self.event.schema)
            self.kinds = {}
            for kind, (ordinal, fields) in FIELDS.items():
                struct_schema = self.event.schema.fields[names[ordinal]].schema
                getters = {n: attrgetter(_path(struct_schema, p)) for n, p in fields.items()}
                tag = self.event.schema.fields[names[ordinal]].proto.discriminantValue
                self.kinds[tag] = _Kind(kind, attrgetter(names[ordinal]), getters)
            self.tags = 1 + max(f.proto.discriminantValue for f in _union(self.event.schema))
            controls = self.event.schema.fields[names[7]].schema
            found = _names(controls)
            inner = _names(_at(controls, found[60]).schema)
            self.enter_torque = attrgetter(found[60])
            self.torque = {n: attrgetter(inner[o]) for n, o in TORQUE_FIELDS.items()}
            self.controllers = {
                found[o].rpartition(".")[2]: c for o, c in CONTROLLERS.items() if o in found
            }
        except (capnp.KjException, KeyError, AttributeError) as error:
            raise InputError(
                f"{str(file)!r} is not openpilot's log schema ({error}); give its log.capnp"
            ) from error


def read_log(
    chunks: Iterable[bytes],
    report: LogReport | None = None,
    schema: Schema | None = None,
) -> Iterator[Message]:
    """Yield the wanted messages of a log in the order in which they were written.

    Args:
        chunks: The bytes of the log in pieces, see :func:`file_chunks`; the compression is known
            from the first bytes.
        report: Filled while reading.
        schema: Where the values lie; our own schema by default.
    """
    report = LogReport() if report is None else report
    schema = schema or load_schema()
    frames = _frames(chunks, report)
    for frame, start in frames:
        data = _root_data(frame, start)
        tag = None if data is None else struct.unpack_from("<H", frame, data + 8)[0]
        if tag is not None and tag not in schema.kinds:
            if tag < schema.tags:
                report.skipped += 1
            else:
                report.unknown += 1
            continue
        message = _decode(frame, tag, schema, report)
        if message is not None:
            report.messages[message.kind] += 1
            yield message


def file_chunks(path: str | Path) -> Iterator[bytes]:
    """Yield the bytes of a file in pieces.

    Raises:
        InputError: The file cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            while data := file.read(_CHUNK):
                yield data
    except OSError as error:
        raise InputError(f"cannot read log {str(path)!r}: {error.strerror or error}") from error


def _frames(chunks: Iterable[bytes], report: LogReport) -> Iterator[tuple[bytes, int]]:
    """Yield each framed message and where its first segment starts."""
    buffer = bytearray()
    position = 0  # of the first byte in buffer that is not used up
    done = 0  # bytes of the log before the buffer
    for data in _inflate(chunks, report):
        buffer += data
        while len(buffer) - position >= 8:
            count = struct.unpack_from("<I", buffer, position)[0] + 1
            header = 4 * (count + 1 + (count + 1) % 2)
            if count > _MAX_SEGMENTS:
                report.damage = f"no message starts at byte {done + position} of the log"
                return
            if len(buffer) - position < header:
                break
            words = sum(struct.unpack_from(f"<{count}I", buffer, position + 4))
            if not 0 < words <= _MAX_WORDS:
                report.damage = f"no message starts at byte {done + position} of the log"
                return
            end = position + header + 8 * words
            if len(buffer) < end:
                break
            yield bytes(buffer[position:end]), header
            position = end
        del buffer[:position]
        done, position = done + position, 0
    if not report.damage and (buffer or not done):
        report.damage = f"the log breaks off after {done} bytes" if done else "the log is empty"


def _inflate(chunks: Iterable[bytes], report: LogReport) -> Iterator[bytes]:
    """Decompress a stream, recognised by its magic bytes; several streams in a row are one log."""
    chunks = iter(chunks)
    head = b""
    while len(head) < 4 and (data := next(chunks, b"")):
        head += data
    if head[:3] == b"BZh":
        new: Callable[[], Any] = bz2.BZ2Decompressor
    elif head[:4] == b"\x28\xb5\x2f\xfd":
        new = zstandard().ZstdDecompressor().decompressobj
    else:
        yield head
        yield from chunks
        return
    machine, unpacked = new(), 0
    try:
        for data in _pieces(_chain(head, chunks)):
            while data:
                if machine.eof:
                    machine = new()
                plain = machine.decompress(data)
                unpacked += len(plain)
                if unpacked > _LARGEST:
                    report.damage = f"the log unpacks to more than {_LARGEST:,} bytes"
                    return
                yield plain
                data = machine.unused_data if machine.eof else b""
    except (OSError, ValueError, MemoryError, zstandard().ZstdError) as error:
        report.damage = f"the compression is damaged ({error})"
        return
    if not machine.eof:
        report.damage = "the compressed file breaks off"


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield pieces so small that none unpacks to more than some 40 MB."""
    for data in chunks:
        for start in range(0, len(data), _PIECE):
            yield data[start : start + _PIECE]


def _chain(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest


def _root_data(frame: bytes, start: int) -> int | None:
    """Return where the data section of the root struct lies, or None if a decoder must look.

    The first word of a message points to its root: two bits of kind (0 for a struct), 30 of
    offset in words, 16 of data words, 16 of pointers (Cap'n Proto's encoding, "Structs").
    """
    if len(frame) < start + 8:
        return None
    pointer = struct.unpack_from("<Q", frame, start)[0]
    offset = (pointer >> 2) & 0x3FFFFFFF
    if pointer & 3 or offset >= 1 << 29 or (pointer >> 32) & 0xFFFF < 2:
        return None
    data = int(start + 8 * (1 + offset))
    return data if data + 16 <= len(frame) else None


def _decode(frame: bytes, tag: int | None, schema: Schema, report: LogReport) -> Message | None:
    capnp = _capnp()
    try:
        with schema.event.from_bytes(frame) as event:
            if tag is None:
                name = str(event.which())
                kind = next((k for k in schema.kinds.values() if k.name == name), None)
                if kind is None:
                    report.skipped += 1
                    return None
            else:
                kind = schema.kinds[tag]
            body = kind.enter(event)
            values = {name: _plain(get(body)) for name, get in kind.getters.items()}
            if kind.name == "controlsState":
                values["controller"] = controller = _controller(body, schema)
                if controller == "torque":
                    state = schema.enter_torque(body)
                    values |= {name: get(state) for name, get in schema.torque.items()}
            return Message(kind.name, event.logMonoTime, values)
    except (capnp.KjException, UnicodeDecodeError):
        report.malformed += 1
        return None


def _controller(body: Any, schema: Schema) -> str:
    """Return the name of the active lateral controller."""
    try:
        return schema.controllers.get(str(body.lateralControlState.which()), "unknown")
    except _capnp().KjException:
        return "unknown"


def _plain(value: Any) -> Any:
    """Return a list of a message as a tuple, which outlives the message."""
    return value if isinstance(value, bool | int | float | str) else tuple(value)


def _names(struct_schema: Any) -> dict[int, str]:
    """Return the dotted name of every field by its ordinal, those in groups included."""
    names: dict[int, str] = {}
    for name, entry in struct_schema.fields.items():
        if entry.proto.which() == "group":
            names |= {o: f"{name}.{inner}" for o, inner in _names(entry.schema).items()}
        else:
            names[int(entry.proto.ordinal.explicit)] = name
    return names


def _at(struct_schema: Any, dotted: str) -> Any:
    """Return the field at a dotted name, through groups."""
    *groups, last = dotted.split(".")
    for group in groups:
        struct_schema = struct_schema.fields[group].schema
    return struct_schema.fields[last]


def _path(struct_schema: Any, ordinals: tuple[int, ...]) -> str:
    """Return the dotted path that leads along ``ordinals``."""
    first, *rest = ordinals
    name = _names(struct_schema)[first]
    if not rest:
        return name
    return f"{name}.{_path(_at(struct_schema, name).schema, tuple(rest))}"


def _union(struct_schema: Any) -> list[Any]:
    return [struct_schema.fields[name] for name in struct_schema.union_fields]


@cache
def load_schema(path: str | None = None) -> Schema:
    """Return the schema at ``path`` (None: our own), loaded once in a process."""
    return Schema(path)


@cache
def _capnp() -> Any:
    try:
        import capnp
    except ImportError as error:
        raise InputError("reading logs needs pycapnp: pip install 'steerlab[logs]'") from error
    capnp.remove_import_hook()
    return capnp


@cache
def zstandard() -> Any:
    """Return the module zstandard.

    Raises:
        InputError: It is not installed.
    """
    try:
        import zstandard as module
    except ImportError as error:
        raise InputError("reading logs needs zstandard: pip install 'steerlab[logs]'") from error
    return module
