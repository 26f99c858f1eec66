"""Tables of formatted cells."""

import sys

import numpy as np
from rich.console import Console
from rich.table import Table


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table of formatted cells, the first column being names."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=not i)
    for row in rows:
        table.add_row(*row)
    # A file or a pipe has no width, and 80 would cut the columns.
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def percent(value: float, digits: int = 3) -> str:
    """Return a share as a percentage, large ones with fewer digits."""
    if not np.isfinite(value):
        return "-"
    size = abs(value)
    return f"{100 * value:,.{digits if size < 0.1 else 1 if size < 10 else 0}f} %"
