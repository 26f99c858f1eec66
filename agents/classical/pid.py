"""comma's PID controller of TinyPhysics, over N rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class PID:
    """Steer = p e + i sum(e) + d (e - e_before), with the gains of commaai/controls_challenge."""

    shares_noise = False

    def __init__(self, p: float = 0.195, i: float = 0.100, d: float = -0.053) -> None:
        self.p, self.i, self.d = p, i, d

    def reset(self, rows: Sequence[Any]) -> None:
        """Start ``len(rows)`` rows."""
        self._sum = np.zeros(len(rows))
        self._before = np.zeros(len(rows))

    def update(
        self, target: NDArray[Any], current: NDArray[Any], state: Any, plan: Any
    ) -> NDArray[Any]:
        """Return the steer (N,)."""
        error = target - current
        self._sum = self._sum + error
        change = error - self._before
        self._before = error
        return self.p * error + self.i * self._sum + self.d * change


class Zero:
    """Never steers."""

    shares_noise = False

    def reset(self, rows: Sequence[Any]) -> None:
        """Nothing to remember."""

    def update(
        self, target: NDArray[Any], current: NDArray[Any], state: Any, plan: Any
    ) -> NDArray[Any]:
        """Return zeros (N,)."""
        return np.zeros(len(target))
