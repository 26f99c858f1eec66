"""Bytes, text, JSON and YAML."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from steerlab.errors import InputError

LARGEST_TEXT = 2**24  # bytes of a text file: as JSON it can take 25 times as many
LARGEST_LINES = 2**28  # of a file that is read line by line
LARGEST_YAML = 2**18
DEEPEST = 50  # lists and mappings inside each other


def read_bytes(path: str | Path, largest: int = LARGEST_TEXT) -> bytes:
    """Return the contents of a regular file.

    Raises:
        InputError: There is no such file, it cannot be read, or it has more than ``largest`` bytes.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise InputError(f"there is no file {str(path)!r}; check the path")
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {str(path)!r}: {reason}") from error
    if len(data) > largest:
        raise InputError(f"{str(path)!r} has more than {largest:,} bytes; give another file")
    return data


def read_text(path: str | Path, largest: int = LARGEST_TEXT) -> str:
    """Return the contents of a text file in UTF-8.

    Raises:
        InputError: See :func:`read_bytes`, or it is no text.
    """
    try:
        return read_bytes(path, largest).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is no text in UTF-8 ({error})") from error


def parse_json(text: str | bytes, source: str) -> Any:
    """Return the values of a JSON text.

    Args:
        text: The text.
        source: What the message says of where it is from.

    Raises:
        InputError: It is not JSON, or nested more deeply than :data:`DEEPEST`.
    """
    if len(text) > LARGEST_TEXT:
        raise InputError(f"{source} has more than {LARGEST_TEXT:,} bytes of JSON")
    try:
        values = json.loads(text)
        _check_depth(values, DEEPEST)
    except (ValueError, RecursionError) as error:
        reason = str(error)[:200] or type(error).__name__
        raise InputError(f"{source} is not readable as JSON ({reason})") from error
    return values


def read_json(path: str | Path, kind: type = object, largest: int = LARGEST_TEXT) -> Any:
    """Return the values of a JSON file.

    Args:
        path: The file.
        kind: What they must be, for instance ``dict``.
        largest: Bytes it may have.

    Raises:
        InputError: See :func:`read_bytes` and :func:`parse_json`, or they are something else.
    """
    values = parse_json(read_bytes(path, largest), repr(str(path)))
    if not isinstance(values, kind):
        raise InputError(
            f"{str(path)!r} holds a {type(values).__name__}, not a {kind.__name__}; "
            "it is another file, or damaged"
        )
    return values


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """Return the records of a file with one JSON object a line.

    A last line without its end is left out: whoever wrote it was stopped.

    Raises:
        InputError: See :func:`read_bytes`, or a line holds no object.
    """
    lines = read_bytes(path, LARGEST_LINES).split(b"\n")
    records = []
    for number, line in enumerate(lines[:-1], 1):
        source = f"line {number} of {str(path)!r}"
        record = parse_json(line, source)
        if not isinstance(record, dict):
            raise InputError(f"{source} holds a {type(record).__name__}, not a record")
        records.append(record)
    return records


class _PlainLoader(yaml.SafeLoader):
    """Reads plain values; a small file of aliases can stand for any amount of memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted")
        return super().compose_node(parent, index)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the plain values of a YAML file that holds a mapping.

    Raises:
        InputError: It cannot be read, is no such YAML, or has tags or aliases.
    """
    text = read_text(path, LARGEST_YAML)
    try:
        values = yaml.load(text, _PlainLoader)  # a safe loader
        _check_depth(values, DEEPEST)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{str(path)!r} is not readable as YAML ({reason})") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"{str(path)!r} holds no options by name; it is another file, or damaged")
    return values


def entry(values: Any, name: str, kind: type | tuple[type, ...], source: str) -> Any:
    """Return the entry ``name`` of what a stranger wrote.

    Raises:
        InputError: ``values`` is no mapping, lacks the entry, or it is not of ``kind``.
    """
    found = values.get(name) if isinstance(values, Mapping) else None
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(k.__name__ for k in kinds)
        raise InputError(f"{source}: {name!r} is {str(found)[:100]!r}, not {wanted}")
    return found


def _check_depth(values: Any, deepest: int) -> None:
    inner = [values]
    for _ in range(deepest):
        inner = [
            entry
            for value in inner
            if isinstance(value, dict | list)
            for entry in (value.values() if isinstance(value, dict) else value)
        ]
        if not inner:
            return
    raise ValueError(f"nested more than {deepest} deep")
