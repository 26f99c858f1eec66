"""The one exception for input that a person can mend."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Bad input: the message names the thing, the value and the remedy.

    The ``steerlab`` command prints it as one line; any other exception is a defect and shows its
    traceback.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not in a table, with the nearest known name.

    Args:
        kind: What the name stands for, for example ``"option"``.
        name: The name that was not found.
        known: Every name that would have been accepted.
    """
    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return InputError(f"unknown {kind} {name!r}{hint} (known: {', '.join(known)})")
