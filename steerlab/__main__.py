"""The ``steerlab`` command: one sub-command for each study in ``steerlab.experiments``."""

import ast
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

import steerlab
from steerlab import experiments
from steerlab.errors import InputError, unknown_name
from steerlab.study_help import Unreadable, print_help, read_config


def studies() -> dict[str, str]:
    """Return the sub-commands and their modules, in alphabetical order."""
    modules = [m.name for m in pkgutil.iter_modules(experiments.__path__) if not m.ispkg]
    return {m.replace("_", "-"): m for m in sorted(modules) if not m.startswith("_")}


def summary(module: str) -> str:
    """Return the first line of a study's docstring, read without importing it."""
    source = Path(experiments.__path__[0], f"{module}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def overview() -> None:
    """Print every study with one line on what it does."""
    console = Console()
    console.print(
        f"[bold]steerlab {steerlab.__version__}[/]  usage: steerlab STUDY \\[option=value ...]\n"
    )
    table = Table("study", "what it does", box=None, header_style="bold")
    for command, module in studies().items():
        table.add_row(command, summary(module))
    console.print(table)
    console.print("\n`steerlab STUDY --help` lists the options of a study with their defaults.")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study named by the first argument with the remaining ones as its options."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        overview()
        return
    if arguments[0] in ("-V", "--version"):
        print(steerlab.__version__)
        return
    command, *rest = arguments
    known = studies()
    module = known.get(command.replace("_", "-"))
    if module is None:
        error: InputError = unknown_name("study", command, known)
        sys.exit(f"steerlab: {error}")
    source = f"steerlab.experiments.{module}"
    if {"-h", "--help"} & set(rest):
        try:
            text, config_type = read_config(source)
        except Unreadable:
            pass
        else:
            print_help(command.replace("_", "-"), text, config_type)
            return
    importlib.import_module(source).main(rest)


if __name__ == "__main__":
    main()
