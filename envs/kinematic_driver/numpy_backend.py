"""What the simulator needs from numpy: a namespace of elementwise functions and table lookups."""

from typing import Any

import numpy as np

from steerlab.types import Array


class NumpyBackend:
    """The namespace; :class:`~steerlab.envs.kinematic_driver.torch_backend.TorchBackend` is its twin."""

    abs, cos, exp, floor, sin, sqrt = np.abs, np.cos, np.exp, np.floor, np.sin, np.sqrt
    minimum, maximum = np.minimum, np.maximum
    where = staticmethod(np.where)

    @staticmethod
    def asarray(values: Any) -> Array:
        """Return ``values`` as a float32 array."""
        return np.asarray(values, np.float32)

    @staticmethod
    def zeros(*shape: int) -> Array:
        """Return float32 zeros."""
        return np.zeros(shape, np.float32)

    @staticmethod
    def integers(values: Any) -> Array:
        """Return ``values`` as integers that can index."""
        return np.asarray(values).astype(np.intp)

    @staticmethod
    def arange(stop: int) -> Array:
        """Return the integers from 0 up to ``stop``."""
        return np.arange(stop)

    @staticmethod
    def clip(x: Array, low: Any, high: Any) -> Array:
        """Return ``x`` limited to [low, high]; much faster than ``numpy.clip`` on small arrays."""
        return np.minimum(np.maximum(x, low), high)

    @staticmethod
    def take_columns(table: Array, index: Array) -> Array:
        """Return the columns of a contiguous float32 table (R, C) at ``index`` (...): (C, ...).

        A row travels as one item, which ``numpy.take`` copies several times faster than C numbers;
        parted into columns again, they make all that follows faster.
        """
        width = table.shape[1]
        rows = table.view(f"V{4 * width}")[:, 0].take(index)
        columns = np.empty((width, rows.size), np.float32)
        np.copyto(columns, rows.reshape(-1).view(np.float32).reshape(-1, width).T)
        return columns.reshape(width, *index.shape)

    @staticmethod
    def take_rows(table: Array, index: Array) -> Array:
        """Return rows of ``table`` (R, C) at ``index`` (N,): shape (N, C)."""
        return table.take(index, axis=0)

    @staticmethod
    def empty(*shape: int) -> Array:
        """Return an uninitialised float32 array."""
        return np.empty(shape, np.float32)

    @staticmethod
    def matmul(a: Array, b: Array, out: Array) -> None:
        """Write the matrix product of ``a`` and ``b`` to ``out``."""
        np.matmul(a, b, out=out)

    @staticmethod
    def percentiles(values: Array, counts: Array, shares: tuple[float, ...]) -> list[Array]:
        """Return percentiles of the first ``counts`` (n,) of ``values`` (n, T), linear in between."""
        padded = np.where(np.arange(values.shape[1]) < counts[:, None], values, np.inf)
        padded.sort(axis=1)
        rows, found = np.arange(len(values)), []
        for share in shares:
            at = (share * (counts - 1)).astype(np.float32)
            low = at.astype(np.intp)
            high = np.minimum(low + 1, counts - 1)
            first = padded[rows, low]
            found.append(first + (at - low).astype(np.float32) * (padded[rows, high] - first))
        return found


NUMPY = NumpyBackend()
