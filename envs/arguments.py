"""What every task asks of its arguments: whole numbers, seeds, time limits, finite actions."""

import operator
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from steerlab.errors import InputError


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return a whole number of any kind (Python's, numpy's, a tensor) as an ``int``.

    Raises:
        InputError: ``value`` is no whole number, or outside of [low, high].
    """
    bounds = f"at least {low}" if high is None else f"in [{low}, {high}]"
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise InputError(f"{name}={value!r} must be a whole number (int), {bounds}")
    try:
        number = operator.index(value)
    except TypeError as error:  # an array of several numbers, or of other ones
        raise InputError(f"{name}={value!r} must be one whole number (int), {bounds}") from error
    if number < low or (high is not None and number > high):
        raise InputError(f"{name}={number} must be {bounds}")
    return number


def not_negative(name: str, value: Any) -> Any:
    """Return ``value``, a number from 0 on.

    Raises:
        InputError: It is negative, or no finite number.
    """
    if not isinstance(value, int | float | np.number) or not 0 <= value < np.inf:
        raise InputError(f"{name}={value!r} must be a number and must not be negative")
    return value


def row_seeds(seed: Any, rows: int) -> list[int | None]:
    """Return one seed a row: a number s gives row i the seed s + i, None leaves all generators be.

    Raises:
        InputError: ``seed`` is neither a whole number from 0 on, nor one of them or None for a row.
    """
    if seed is None:
        return [None] * rows
    if isinstance(seed, list | tuple) or getattr(seed, "ndim", 0) == 1:
        if len(seed) != rows:
            raise InputError(f"got {len(seed)} seeds for {rows} rows")
        return [None if s is None else integer("seed", s, 0) for s in seed]
    first = integer("seed", seed, 0)
    return [first + row for row in range(rows)]


def time_limit(value: Any, default: int, low: int = 1, high: int | None = None) -> int:
    """Return ``max_episode_steps``; None and gymnasium's -1 stand for the task's own limit.

    Raises:
        InputError: It is no whole number in [low, high].
    """
    if value is None or (isinstance(value, int) and value == -1):
        return default
    return integer("max_episode_steps", value, low, high)


def time_limit_of_make(task: type) -> int | None:
    """Return the ``max_episode_steps`` of the ``gym.make`` that is now making ``task``, if any.

    ``gym.make`` gives the limit to its TimeLimit wrapper and not to the task, as which
    ``gym.make_vec`` does. A task whose reward or road depends on the length of its episodes has to
    know it all the same, and only the call stack shows it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not gym.make.__code__:
        frame = frame.f_back
    if frame is None:
        return None
    creator = frame.f_locals["env_creator"]
    if isinstance(creator, type) and creator is not task:
        return None  # an environment that uses the task inside
    given, spec = frame.f_locals["max_episode_steps"], frame.f_locals["env_spec"]
    limit: int | None = spec.max_episode_steps if given is None else given
    return limit


def numbers(name: str, value: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return ``value`` as an array of numbers of that shape.

    Raises:
        InputError: It has another shape, or holds something else.
    """
    array = np.asarray(value)
    if array.shape != shape:
        raise InputError(f"{name} of shape {array.shape}: the task needs shape {shape}")
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must be real numbers, not {array.dtype}")
    return array


class Setting:
    """An argument of a task's constructor that may change later: it is checked each time.

    Args:
        check: Gets the name and the value, and returns what to keep or raises an error.
    """

    def __init__(self, check: Callable[[str, Any], Any]) -> None:
        self.check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, task: Any, owner: type) -> Any:
        if task is None:
            return self
        try:
            return vars(task)[self.name]
        except KeyError:
            raise AttributeError(self.name) from None

    def __set__(self, task: Any, value: Any) -> None:
        vars(task)[self.name] = self.check(self.name, value)
