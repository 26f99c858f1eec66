"""The table of checks that several studies print."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steerlab.exporters.verify.base import FAIL, NOTE, PASS, SKIP, Check

_COLOURS = {PASS: "green", FAIL: "bold red", SKIP: "yellow", NOTE: "yellow"}


def print_checks(checks: list[Check], console: Console, title: str = "") -> None:
    """Print one line a check: what was found and, where it failed, how to mend it."""
    table = Table("check", "", "found", title=escape(title) or None, header_style="bold")
    for check in checks:
        text = escape(check.found)  # a stranger's names may hold what rich takes for markup
        if check.remedy:
            text += f"\n[cyan]mend:[/] {escape(check.remedy)}"
        table.add_row(check.name, f"[{_COLOURS[check.status]}]{check.status}[/]", text)
    console.print(table)
