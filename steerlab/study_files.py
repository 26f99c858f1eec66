"""Settings from a file: a YAML of options that stands for so many words typed before the others.

``--config-name my_run`` takes ``my_run.yaml`` from the working folder, from ``--config-dir`` or from those
that come with the package; ``--write-config my_run.yaml`` writes all options with their defaults and what
they mean. What is typed besides counts more than the file.
"""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import steerlab
from steerlab.errors import InputError
from steerlab.files import atomic_path, writable_folder
from steerlab.readers.text import read_yaml

NAME, FOLDER, WRITE = "--config-name", "--config-dir", "--write-config"
_SHORT = {"-cn": NAME, "-cd": FOLDER}
SHIPPED = Path(steerlab.__path__[0], "experiments", "configs")
_WIDTH = 96


def with_file(arguments: Sequence[str], config_type: type[Any], command: str) -> list[str] | None:
    """Return the arguments, those of a file among them; None if the options were to be written only.

    Raises:
        InputError: A flag or the file is wrong.
    """
    flags, others = take_flags(arguments)
    if WRITE not in flags:
        return from_file(flags, others)
    print(write_config(flags[WRITE], config_type, command))
    return None


def take_flags(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the flags of this module with their values, and the other arguments.

    Raises:
        InputError: A flag has no value.
    """
    found: dict[str, str] = {}
    others: list[str] = []
    waiting = ""
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        flag = _SHORT.get(flag, flag)
        if waiting and not equals and not argument.startswith("-"):
            found[waiting], waiting = argument, ""
        elif waiting:
            break
        elif flag not in (NAME, FOLDER, WRITE):
            others.append(argument)
        elif equals:
            found[flag] = value
        else:
            waiting = flag
    if waiting:
        raise InputError(f"{waiting} needs a value, such as {waiting} my_run")
    if FOLDER in found and NAME not in found:
        raise InputError(f"{FOLDER} has an effect with {NAME} only; add {NAME} my_run")
    return found, others


def from_file(flags: Mapping[str, str], arguments: Sequence[str]) -> list[str]:
    """Return what the file named by ``flags`` says as arguments, before those that were typed.

    Raises:
        InputError: There is no such file, or it is no YAML of options.
    """
    if NAME not in flags:
        return list(arguments)
    path = _find(flags[NAME], flags.get(FOLDER))
    typed = {argument.partition("=")[0] for argument in arguments}
    told = _flat(read_yaml(path))
    return [f"{k}={_text(v)}" for k, v in told.items() if k not in typed] + list(arguments)


def write_config(path: str, config_type: type[Any], command: str) -> Path:
    """Write a YAML file of all options, their defaults, and what they mean.

    Raises:
        InputError: The file exists, or cannot be written.
    """
    file = Path(path).expanduser()
    if file.exists():
        raise InputError(f"{str(file)!r} exists; give another name, or remove it")
    writable_folder(file.parent)
    head = f"# Options of steerlab {command}; use them with --config-name {file.stem}\n"
    with atomic_path(file) as temporary:
        temporary.write_text(head + _commented(config_type(), ""), encoding="utf-8")
    return file


def _find(name: str, folder: str | None) -> Path:
    stem = name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"
    places = [Path(folder).expanduser()] if folder else [Path(), SHIPPED]
    for place in places:
        if (place / stem).is_file():
            return place / stem
    shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
    raise InputError(
        f"there is no {stem!r} in {' or '.join(repr(str(p)) for p in places[:1])}; write one with "
        f"{WRITE} {stem}, give its folder with {FOLDER}" + f", or use {shipped}" * bool(shipped)
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return values by dotted names."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _text(value: Any) -> str:
    """Return a value as it would be typed."""
    if isinstance(value, list):
        return "[" + ",".join(_item(v) for v in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _item(value: Any) -> str:
    text = _text(value)
    return f'"{text}"' if isinstance(value, str) else text


def _commented(options: Any, indent: str) -> str:
    """Return the fields of a dataclass of options as YAML, each below what it means."""
    lines: list[str] = []
    for field in dataclasses.fields(options):
        value, told = getattr(options, field.name), field.metadata.get("help", "")
        lines += [f"{indent}# {line}" for line in textwrap.wrap(told, _WIDTH - len(indent))]
        if dataclasses.is_dataclass(value):
            lines += [f"{indent}{field.name}:", _commented(value, indent + "  ").rstrip("\n")]
        else:
            plain = list(value) if isinstance(value, tuple) else value
            said = yaml.safe_dump([plain], default_flow_style=True, width=2**20).strip()[1:-1]
            lines.append(f"{indent}{field.name}: {said}")
    return "\n".join(lines) + "\n"
