"""Controller files written for comma's controls challenge, run unchanged."""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from steerlab.agents.classical.pid import PID, Zero
from steerlab.agents.tinyphysics import SHIPPED
from steerlab.errors import InputError

BUILT_IN: dict[str, Callable[[], Any]] = {"pid": PID, "zero": Zero}
_package_numbers = count()


class BaseController:
    """What a controller file imports with ``from . import BaseController``."""

    def update(
        self, target_lataccel: float, current_lataccel: float, state: Any, future_plan: Any
    ) -> float:
        """Return the steer."""
        raise NotImplementedError


class CommaController:
    """One object of a controller file's ``Controller`` class for each row.

    Such a file may draw from numpy's global generator, from which the official simulator draws
    too. So the generator of a row takes the place of the global one around each of its calls.

    Raises:
        InputError: The file cannot be loaded, or its controller raises or returns no finite number.
    """

    shares_noise = True

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._type = load_controller_class(self.path)

    def reset(self, noise: Sequence[RandomState]) -> None:
        """Make one controller for each generator."""
        self._noise = list(noise)
        self._rows = []
        for _ in noise:
            with self._named("__init__"):
                self._rows.append(self._type())

    def update(
        self, target: NDArray[Any], current: NDArray[Any], state: Any, plan: Any
    ) -> NDArray[Any]:
        """Return the steer (N,)."""
        actions = np.empty(len(target))
        for row, controller in enumerate(self._rows):
            state_type, plan_type = type(state), type(plan)
            with _global_generator(self._noise[row]), self._named("update"):
                actions[row] = controller.update(
                    target[row],
                    current[row],
                    state_type(*(values[row] for values in state)),
                    future_plan=plan_type(*(values[row].tolist() for values in plan)),
                )
        if not np.isfinite(actions).all():
            raise InputError(
                f"controller {str(self.path)!r} returned {actions[~np.isfinite(actions)][0]}; "
                "update() must return a finite number"
            )
        return actions

    @contextmanager
    def _named(self, method: str) -> Iterator[None]:
        """Say which file an exception of the controller comes from."""
        try:
            yield
        except Exception as error:
            trace = error.__traceback__
            line = ""
            while trace is not None:
                if trace.tb_frame.f_code.co_filename == str(self.path.resolve()):
                    line = f", line {trace.tb_lineno}"
                trace = trace.tb_next
            raise InputError(
                f"controller {str(self.path)!r}{line}: {method}() failed with "
                f"{type(error).__name__}: {error}"
            ) from error


@contextmanager
def _global_generator(generator: RandomState) -> Iterator[None]:
    """Let ``numpy.random`` functions draw from ``generator``.

    The whole legacy state moves, as it holds the second value of a normal pair as well.
    """
    before = np.random.get_state(legacy=False)  # noqa: NPY002
    np.random.set_state(generator.get_state(legacy=False))  # noqa: NPY002
    try:
        yield
    finally:
        generator.set_state(np.random.get_state(legacy=False))  # noqa: NPY002
        np.random.set_state(before)  # noqa: NPY002


def load_controller_class(path: Path) -> type[Any]:
    """Load the class ``Controller`` of a file as a module of a package of its own.

    The package stands for comma's ``controllers`` folder: it has ``BaseController``, and relative
    imports find the files beside the controller. The folder above is searched for modules while
    the file loads, as it is when comma's scripts run there.

    Raises:
        InputError: The file does not exist, fails while it loads, or lacks the class.
    """
    if not path.is_file():
        raise InputError(
            f"controller {str(path)!r} is neither {' nor '.join(BUILT_IN)} nor a file; check the path"
        )
    path = path.resolve()
    package = ModuleType(f"_comma_controllers_{next(_package_numbers)}")
    package.__path__ = [str(path.parent)]
    package.BaseController = BaseController  # type: ignore[attr-defined]
    sys.modules[package.__name__] = package
    spec = importlib.util.spec_from_file_location(f"{package.__name__}.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"controller {str(path)!r} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.append(str(path.parent.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(
            f"controller {str(path)!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(str(path.parent.parent))
    if not isinstance(getattr(module, "Controller", None), type):
        raise InputError(f"controller {str(path)!r} has no class named Controller")
    return module.Controller


def controller_factory(name: str) -> Callable[[], Any]:
    """Return a function that makes controllers by name, or from a controller file.

    Args:
        name: "pid", "zero", "steerlab" (the one that comes with the package) or the path of a file
            written for comma's repository.

    Raises:
        InputError: There is no such controller; raised here, before work starts.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name == "steerlab":
        name = str(SHIPPED)
    load_controller_class(Path(name))
    return partial(CommaController, name)
