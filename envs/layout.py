"""Named slices of flat observation and action vectors."""

from types import MappingProxyType
from typing import Any

import numpy as np
from gymnasium.spaces import Box


class Layout:
    """Where each named part of a flat vector lies.

    >>> layout = Layout(speed=1, path=33)
    >>> layout.size, layout["path"]
    (34, slice(1, 34, None))
    """

    def __init__(self, **widths: int) -> None:
        """Lay the parts out in the order given, each ``width`` values wide."""
        ends = np.cumsum(list(widths.values())).tolist()
        starts = [0, *ends[:-1]]
        self.slices = MappingProxyType(
            {name: slice(a, b) for name, a, b in zip(widths, starts, ends, strict=True)}
        )
        self.size: int = ends[-1]

    def __getitem__(self, name: str) -> slice:
        return self.slices[name]

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, ({name: s.stop - s.start for name, s in self.slices.items()},)

    def split(self, vector: Any) -> dict[str, Any]:
        """Return views of the parts of ``vector`` (..., size)."""
        return {name: vector[..., part] for name, part in self.slices.items()}

    def box(self, low: float = -np.inf, high: float = np.inf) -> Box:
        """Return the float32 space of the whole vector."""
        return Box(low, high, (self.size,), np.float32)


def _rebuild(widths: dict[str, int]) -> Layout:
    return Layout(**widths)
