"""The queues that openpilot's modeld keeps between frames, for any number of cars at once."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from steerlab.errors import InputError
from steerlab.openpilot.contracts import DESIRES, STRIDE
from steerlab.types import Array


class Queue:
    """The last ``length`` frames of (rows, *shape) values, oldest first; zeros at the start.

    A ring: pushing a frame costs one write, whatever the length.
    """

    def __init__(
        self, rows: int, length: int, shape: tuple[int, ...], dtype: Any = np.float32
    ) -> None:
        self._ring: Array = np.zeros((rows, length, *shape), dtype)
        self._oldest = 0

    def __len__(self) -> int:
        return self._ring.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one frame of one row."""
        return self._ring.shape[2:]

    def push(self, values: ArrayLike) -> None:
        """Add a frame (rows, *shape) and forget the oldest."""
        self._ring[:, self._oldest] = values
        self._oldest = (self._oldest + 1) % len(self)

    def take(self, slots: ArrayLike) -> Array:
        """Return the frames in those slots, 0 the oldest, (rows, len(slots), *shape)."""
        return self._ring[:, (np.asarray(slots) + self._oldest) % len(self)]

    def all(self) -> Array:
        """Return every frame, oldest first."""
        return self.take(np.arange(len(self)))

    def clear(self, rows: Any = slice(None)) -> None:
        """Put zeros into the given rows."""
        self._ring[rows] = 0


class DesirePulse:
    """The desire as modeld passes it on: one frame at each rising edge, ``none`` never."""

    def __init__(self, rows: int) -> None:
        self._previous: Array = np.zeros((rows, len(DESIRES)), np.float32)

    def __call__(self, desire: ArrayLike) -> Array:
        """Return the pulses (rows, 8) for a desire as index (rows,) or as weights (rows, 8).

        Raises:
            InputError: An index is no desire, or the shape is another.
        """
        now = one_hot(desire, len(DESIRES), len(self._previous), "desire")
        now[:, 0] = 0.0
        pulse = np.where(now - self._previous > 0.99, now, 0.0).astype(np.float32)
        self._previous = now
        return pulse

    def clear(self, rows: Any = slice(None)) -> None:
        """Forget the last desire of the given rows."""
        self._previous[rows] = 0


def desire_rows(queue: Queue) -> Array:
    """Return the network's desire history (rows, 25, 8): the largest of every four frames."""
    frames = queue.all()
    return frames.reshape(len(frames), -1, STRIDE, *frames.shape[2:]).max(axis=2)


def strided(queue: Queue) -> Array:
    """Return every fourth frame, the newest of each four: t-96, ..., t-4, t."""
    return queue.take(np.arange(STRIDE - 1, len(queue), STRIDE))


def strided_past(queue: Queue) -> Array:
    """Return every fourth frame, the oldest of each four: t-96, ..., t-4 where t is yet to come."""
    return queue.take(np.arange(0, len(queue), STRIDE))


def one_hot(values: ArrayLike, size: int, rows: int, name: str) -> Array:
    """Return (rows, size) float32 from indices () or (rows,), or from rows that are given so.

    Raises:
        InputError: An index is out of range, or the shape fits neither form.
    """
    values = np.asarray(values)
    if values.ndim == 2:
        if values.shape != (rows, size):
            raise InputError(f"{name} has shape {values.shape}, not ({rows}, {size})")
        return values.astype(np.float32)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != rows):
        raise InputError(f"{name} has shape {values.shape}; give an index or ({rows}, {size})")
    index = np.broadcast_to(values, rows).astype(int)
    if index.min(initial=0) < 0 or index.max(initial=0) >= size:
        raise InputError(f"{name}={values!r} has an index outside 0..{size - 1}")
    return np.eye(size, dtype=np.float32)[index]
