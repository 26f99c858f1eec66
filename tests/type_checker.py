"""What checks the shapes of arrays in the tests: beartype, for which an int may stand for a float."""

from typing import Any, Self

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Any) -> Any:
    """Return ``function`` with checks; without them where beartype cannot know the class."""
    if Self in getattr(function, "__annotations__", {}).values():
        return function
    return _check(function)
