"""Functions of the user's own, named on the command line as ``module:function``."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from steerlab.errors import InputError, unknown_name


def import_callable(name: str, option: str) -> Callable[..., Any]:
    """Return a function of a module that the user names.

    This imports the module, and so executes it: it is code of the user's own, as a script is. Nothing
    is unpickled.

    Args:
        name: ``module:function`` (the working directory counts as a place of modules), or
            ``path/file.py:function``.
        option: What the messages call it.

    Raises:
        InputError: The text has another form; there is no such module or function; the module fails.
    """
    module, _, function = name.rpartition(":")
    if not module or not function.isidentifier():
        raise InputError(f"{option}={name!r} must be module:function, or path/file.py:function")
    try:
        found = _from_file(Path(module)) if module.endswith(".py") else _from_path(module)
    except InputError:
        raise
    except Exception as error:  # whatever the user's code does
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{option}={name!r}: importing {module!r} fails ({type(error).__name__}: {reason})"
        ) from error
    if not callable(getattr(found, function, None)):
        known = [n for n, v in vars(found).items() if callable(v) and not n.startswith("_")]
        raise unknown_name(f"function of {module}", function, known)
    chosen: Callable[..., Any] = getattr(found, function)
    return chosen


def _from_path(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # a module of ours imports one that is missing
    # A console script does not have the working directory among its places, python -m does.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    importlib.invalidate_caches()
    return importlib.import_module(module)


def _from_file(path: Path) -> ModuleType:
    path = path.expanduser()
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; check the path")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
