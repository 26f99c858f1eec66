"""Options of studies and trainings: dataclass fields that carry their line of help."""

import dataclasses
from typing import Any


def option(default: Any, help: str) -> Any:
    """Return a dataclass field with a default value and the line that ``--help`` prints."""
    if isinstance(default, list | dict) or dataclasses.is_dataclass(default):
        return dataclasses.field(default_factory=lambda: default, metadata={"help": help})
    return dataclasses.field(default=default, metadata={"help": help})
