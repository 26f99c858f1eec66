"""From what was typed to Hydra's overrides: text is taken as typed, and mistakes are named.

Hydra reads values by a grammar of its own, in which ``=``, ``,``, brackets, quotes, ``#``, ``~`` and most
letters beyond ASCII mean something or are refused. An option that is text needs no grammar: its value is quoted
for Hydra here, with a leading ``~`` expanded as a shell does. Only with ``--multirun`` does a comma in it
separate settings, ``output=`` excepted.
"""

import dataclasses
import os
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from steerlab.errors import InputError, unknown_name

MULTIRUN = ("--multirun", "-m")
#: Flags of Hydra that studies know, and those that only show something.
SHOWING = ("--cfg", "-c", "--info", "-i")
_WITH_VALUE = ("--cfg", "-c", "--package", "-p")
_FLAGS = (*MULTIRUN, *SHOWING, *_WITH_VALUE, "--resolve")
#: Options that had other names, and what they are called now.
RENAMED = {
    "passes": "epochs",
    "n_epochs": "epochs",
    "workers": "processes",
    "extract_workers": "processes",
    "vision_model": "vision",
}
_LONGEST = 80  # characters of what was typed that a message repeats
_TEXT, _TEXTS, _LIST, _OTHER = "text", "texts", "list", "other"


def overrides_of(arguments: Sequence[str], config_type: type[Any]) -> list[str]:
    """Return the arguments as Hydra takes them, each checked.

    Raises:
        InputError: A flag or an option does not exist, a value cannot be read or is of another type.
    """
    many = bool(set(MULTIRUN) & set(arguments))
    kinds = _kinds(config_type) | {"output": _TEXT}
    schema = writable(OmegaConf.structured(config_type))
    found, before = [], ""
    for argument in arguments:
        if argument.startswith("-") and argument != "-":
            found.append(_flag(argument, arguments, kinds))
        elif before in _WITH_VALUE:
            found.append(argument)
        elif "=" not in argument and not argument.startswith("~"):
            raise InputError(f"{short(argument)!r} is not of the form option=value; see --help")
        else:
            found.append(_override(argument, kinds, many, schema))
        before = argument
    if "--resolve" in arguments and not set(SHOWING) & set(arguments):
        raise InputError("--resolve belongs to --cfg job")
    return found


def writable(node: Any) -> Any:
    """Clear the read-only flag that frozen dataclasses carry: overrides come before freezing."""
    if isinstance(node, DictConfig):
        OmegaConf.set_struct(node, None)
        OmegaConf.set_readonly(node, False)
        for key in node:
            if not OmegaConf.is_missing(node, key):
                writable(node._get_node(key))
    return node


def short(text: str) -> str:
    """Return what was typed, or its beginning if that is more than a line."""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def shorten(message: str, arguments: Sequence[str]) -> str:
    """Return a message that repeats no more than a line of any argument."""
    values = {part for a in arguments for part in (a, a.partition("=")[2]) if len(part) > _LONGEST}
    for value in sorted(values, key=len, reverse=True):
        for said in (value, repr(value)[1:-1]):
            message = message.replace(said, short(said))
    return message


def quoted(text: str) -> str:
    """Return the override value that means this text, whatever it holds."""
    text = re.sub(r"(\\*)\$\{", lambda m: 2 * m[1] + r"\${", text)  # no interpolation
    text = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + (r"\'" if m[2] else ""), text)
    return f"'{text}'"


def _flag(argument: str, arguments: Sequence[str], kinds: Mapping[str, str]) -> str:
    """Return a flag of Hydra.

    Raises:
        InputError: It is none; an option that it may have meant is suggested.
    """
    name, _, value = argument.partition("=")
    if name in _FLAGS:
        return argument
    place = list(arguments).index(argument)
    if not value and place + 1 < len(arguments) and "=" not in arguments[place + 1]:
        value = arguments[place + 1]
    if near := _nearest(name.lstrip("-"), kinds):
        raise InputError(
            f"options are written without dashes: {near}={short(value) or '...'} instead of "
            f"{short(argument)!r}"
        )
    raise InputError(
        f"unknown flag {short(argument)!r}; options are written option=value, see --help"
    )


def _override(argument: str, kinds: Mapping[str, str], many: bool, schema: Any) -> str:
    """Return an override whose text is quoted."""
    key, _, value = argument.partition("=")
    head = key.lstrip("+~").partition(".")[0].partition("/")[0]
    if head == "hydra":
        _check_hydra(key, many)
        return argument
    _check_renamed(key, kinds)
    kind = kinds.get(key, _OTHER)
    sweeps = many and key != "output"
    if kind == _TEXT and not (sweeps and "," in value) and value != "null":
        argument = f"{key}={quoted(os.path.expanduser(value))}"
    elif kind == _TEXTS and not (sweeps and _parse(argument, silent=True)):
        argument = f"{key}=[{','.join(quoted(os.path.expanduser(v)) for v in _items(value))}]"
    elif kind == _LIST and value and value != "null" and not set(value) & set("[](){}$,"):
        argument = f"{key}=[{value}]"  # one value stands for a list of one
    override = _parse(argument)
    assert override is not None
    if not override.is_add() and head not in {name.partition(".")[0] for name in kinds}:
        if near := _nearest(key, kinds):
            raise InputError(f"unknown option {short(key)!r}; did you mean {near!r}?")
        raise unknown_name("option", short(key), kinds)
    if not (override.is_add() or override.is_delete() or override.is_sweep_override()) and (
        head != "output"
    ):
        OmegaConf.update(schema, key, override.value())  # is it of the option's type?
    return argument


def _check_renamed(key: str, kinds: Mapping[str, str]) -> None:
    """Refuse a name of the past with the one of now, where the study has that option."""
    group, dot, name = key.lstrip("+~").rpartition(".")
    now = group + dot + RENAMED.get(name, "")
    if name in RENAMED and key not in kinds and now in kinds:
        raise InputError(f"the option {short(key)!r} is called {now!r} now; write {now}=...")


def _check_hydra(key: str, many: bool) -> None:
    """Refuse what Hydra would ignore, or what would put results elsewhere than they are looked for."""
    if key.startswith("hydra/launcher") and not many:
        raise InputError(f"{short(key)}= has an effect with --multirun only; add --multirun")
    if key in ("hydra.run.dir", "hydra.sweep.dir", "hydra.output_subdir"):
        raise InputError(f"output= says where results go, not {key}=")


def _parse(argument: str, silent: bool = False) -> Override | None:
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException as error:
        if silent:
            return None
        reason = " ".join(str(error.__cause__ or error).split()).partition(" See http")[0]
        raise InputError(
            f"cannot read {short(argument)!r}: {shorten(reason, [argument])}"
        ) from error


def _items(value: str) -> list[str]:
    """Return the texts of a list ``[a,b]``, or the one text that is no list."""
    if not (value.startswith("[") and value.endswith("]")):
        return [value]
    # A comma separates unless quotes or brackets are around it.
    items = re.findall(r"""\s*("[^"]*"|'[^']*'|(?:\[[^\[\]]*\]|[^,])*)\s*(?:,|$)""", value[1:-1])
    items = [item.strip() for item in items if item.strip()]
    return [i[1:-1] if len(i) > 1 and i[0] == i[-1] and i[0] in "\"'" else i for i in items]


def _kinds(config_type: type[Any], prefix: str = "") -> dict[str, str]:
    """Return for every option, by its dotted name, its kind: a text, texts, another list, or neither."""
    found: dict[str, str] = {}
    types = typing.get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        kind, name = types[field.name], prefix + field.name
        if dataclasses.is_dataclass(kind):
            found |= _kinds(typing.cast(type[Any], kind), f"{name}.")
        options = typing.get_args(kind) if isinstance(kind, UnionType) else (kind,)
        if all(o in (str, NoneType) for o in options):
            found[name] = _TEXT
        elif typing.get_origin(kind) in (list, tuple) and str in typing.get_args(kind):
            found[name] = _TEXTS
        elif typing.get_origin(kind) in (list, tuple):
            found[name] = _LIST
        else:
            found[name] = _OTHER
    return found


def _nearest(name: str, known: Collection[str]) -> str | None:
    """Return the option that a name may have meant: by its initials (lr), or by its letters."""
    name = name.replace("-", "_").lower()
    by_initials = {"".join(word[0] for word in k.split("_") if word): k for k in known if "_" in k}
    close = get_close_matches(name, list(known), n=1)
    return name if name in known else by_initials.get(name) or (close[0] if close else None)
