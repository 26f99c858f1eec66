"""Functions compiled by numba: the one place that asks whether it works and where it keeps its code.

numba is an accelerator, so it must never be what stops a program. It keeps compiled code beside the
source or in the user's cache folder. Where neither can be written (containers, full disks), the
function is compiled again by every process.
"""

import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any


@cache
def has_numba() -> bool:
    """Tell whether numba can be used; warn if it is installed and does not work.

    It follows new releases of numpy and Python with months of delay, and refuses them until then.
    """
    try:
        if find_spec("numba") is None:
            return False
        import numba  # noqa: F401
    except (ImportError, AttributeError, OSError, SystemError) as error:
        warnings.warn(
            f"numba is installed but cannot be used, numpy takes its place: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return the decorator that compiles a function with ``numba.njit(**options)``.

    The machine code is kept on disk where numba finds a folder for it; without one, a warning says
    once how to give it one.
    """
    from numba import njit

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = njit(**options)(function)
        if hasattr(dispatcher, "enable_caching"):  # not with NUMBA_DISABLE_JIT
            try:
                dispatcher.enable_caching()
                dispatcher._cache = _Forgiving(dispatcher._cache)
            except (RuntimeError, OSError) as error:
                _warn_once(str(error))
        return dispatcher

    return decorate


class _Forgiving:
    """A cache of numba's whose failures cost time only: files cut off, or a disk that is full."""

    def __init__(self, kept: Any) -> None:
        self._kept = kept

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_kept":  # a copy that is not set up yet
            raise AttributeError(name)
        return getattr(self._kept, name)

    def load_overload(self, *arguments: Any) -> Any:
        """Return the code that was kept, or None."""
        try:
            return self._kept.load_overload(*arguments)
        except Exception as error:  # noqa: BLE001, whatever unpickling a damaged file raises
            _warn_once(f"{type(error).__name__}: {error}")
            return None

    def save_overload(self, *arguments: Any) -> None:
        """Keep the code, if that is possible."""
        try:
            self._kept.save_overload(*arguments)
        except Exception as error:  # noqa: BLE001, it reads the damaged file first
            _warn_once(f"{type(error).__name__}: {error}")


_warned = False


def _warn_once(reason: str) -> None:
    """Warn at the first failure only: the others of the process have the same cause."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"numba's cache cannot be used, so every process compiles anew ({reason}); set "
            "NUMBA_CACHE_DIR to a folder that can be written",
            RuntimeWarning,
            stacklevel=3,
        )
