"""The help of a study, printed from its source: no study, and so no torch, is imported for it.

A study's options are a dataclass whose fields are plain values. :func:`read_config` builds that
dataclass from the syntax tree: it follows base classes and defaults through the imports of our own
modules, and evaluates only what the defaults need. What it cannot read raises :class:`Unreadable`;
then the study has to be imported. ``tests/test_study_help.py`` holds every study to its import.
"""

import ast
import dataclasses
import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import steerlab

_ROOT = Path(steerlab.__path__[0])
#: Our own modules that are light enough to import.
_LIGHT = ("steerlab.errors", "steerlab.options")

HYDRA_HELP = """\
Hydra's own flags work too: --multirun with seed=1,2,3 or seed=range(10) runs several settings,
--cfg job prints the settings and stops, hydra/launcher=... sends a multirun to a cluster.
--write-config my_run.yaml writes all options into a file, --config-name my_run takes them from it."""


class Unreadable(Exception):
    """The source alone does not show the options."""


def print_help(command: str, text: str, config_type: type[Any]) -> None:
    """Print what a study does, and its options with defaults and meaning."""
    console = Console()
    console.print(text.strip(), markup=False, highlight=False, soft_wrap=True)
    console.print(f"\n[bold]usage:[/] steerlab {command} \\[option=value ...]\n", highlight=False)
    table = Table("option", "default", "meaning", box=None, header_style="bold")
    for row in option_rows(config_type):
        table.add_row(*row)
    table.add_row("output", "runs/...", "folder of the results, if there are any to keep; an existing one is continued "
                  "where the study can resume")  # fmt: skip
    console.print(table)
    console.print("\n" + HYDRA_HELP, markup=False, highlight=False, soft_wrap=True)


def option_rows(config_type: type[Any], prefix: str = "") -> list[tuple[str, str, str]]:
    """Return name, default and help of every option, those of nested dataclasses included."""
    rows = []
    for f in dataclasses.fields(config_type):
        if f.default is not dataclasses.MISSING:
            default = f.default
        elif f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        else:
            default = "???"
        if dataclasses.is_dataclass(default):
            rows += option_rows(type(default), f"{prefix}{f.name}.")
        else:
            shown = "null" if default is None else str(default).replace("True", "true")
            rows.append(
                (prefix + f.name, shown.replace("False", "false"), f.metadata.get("help", ""))
            )
    return rows


def read_config(module: str) -> tuple[str, type[Any]]:
    """Return docstring and options of a study, ``steerlab.experiments.NAME``, from its source.

    Raises:
        Unreadable: A default needs more than constants, dataclasses and light modules.
    """
    for node in _tree(module).body:  # main = study(Config, run)
        match node:
            case ast.Assign([ast.Name("main")], ast.Call(args=[options, *_])):
                text = ast.get_docstring(_tree(module)) or ""
                return text, _evaluate(module, options)
    raise Unreadable(f"{module} has no main = study(Config, run)")


class _Module:
    """One of our modules, whose values are read when they are asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return _value(self._name, name)


@cache
def _tree(module: str) -> ast.Module:
    """Return the syntax tree of one of our modules; of a package, that of its public names."""
    if file := _file(module):
        return ast.parse(file.read_text(encoding="utf-8"))
    raise Unreadable(f"no module {module}")


def _file(module: str) -> Path | None:
    path = _ROOT.joinpath(*module.split(".")[1:])
    files = (path.with_suffix(".py"), path / "__init__.pyi", path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


@cache
def _value(module: str, name: str) -> Any:
    """Return what ``name`` is in a module, without importing it."""
    for node in reversed(_tree(module).body):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _dataclass(module, node)
        if isinstance(node, ast.Assign) and any(_names(t) == name for t in node.targets):
            return _evaluate(module, node.value)
        if isinstance(node, ast.AnnAssign) and _names(node.target) == name and node.value:
            return _evaluate(module, node.value)
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _imported(module, node, alias.name)
    raise Unreadable(f"{module} does not say what {name} is")


def _names(target: ast.expr) -> str:
    return target.id if isinstance(target, ast.Name) else ""


def _imported(module: str, node: ast.Import | ast.ImportFrom, name: str) -> Any:
    """Return what an import statement of ``module`` gives."""
    if isinstance(node, ast.Import):
        return _import(name)
    source = node.module or ""
    if node.level:  # as the public names of a package are written
        source = ".".join([module, source] if source else [module])
    if source.startswith("steerlab") and source not in _LIGHT:
        return _Module(f"{source}.{name}") if _file(f"{source}.{name}") else _value(source, name)
    return getattr(_import(source), name)


def _import(module: str) -> Any:
    if module in _LIGHT or module.partition(".")[0] in sys.stdlib_module_names:
        return importlib.import_module(module)
    raise Unreadable(f"{module} is not imported for a help text")


def _evaluate(module: str, expression: ast.expr) -> Any:
    """Return the value of an expression whose names are those of ``module``."""
    used = {n.id for n in ast.walk(expression) if isinstance(n, ast.Name)}
    builtins = importlib.import_module("builtins")
    names = {n: _value(module, n) for n in used if not hasattr(builtins, n)}
    return eval(compile(ast.Expression(expression), module, "eval"), names)  # our own source


def _dataclass(module: str, node: ast.ClassDef) -> type[Any]:
    """Return a dataclass with the fields of a class statement, and none of its methods."""
    if not any("dataclass" in ast.unparse(d) for d in node.decorator_list):
        raise Unreadable(f"{node.name} of {module} is no dataclass")
    bases = tuple(_evaluate(module, base) for base in node.bases)
    body: dict[str, Any] = {"__annotations__": {}, "__doc__": ast.get_docstring(node)}
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            body["__annotations__"][part.target.id] = ast.unparse(part.annotation)
            if part.value:
                body[part.target.id] = _evaluate(module, part.value)
    return dataclasses.dataclass(frozen=True)(type(node.name, bases, body))
