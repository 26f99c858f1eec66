"""Lateral acceleration as tokens: 1,024 bins from -5 to 5 m/s^2, as comma's TinyPhysics has them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

VOCABULARY = 1024
LIMIT = 5.0  # m/s^2
#: Lateral acceleration of each token, m/s^2.
BINS: NDArray[np.float64] = np.linspace(-LIMIT, LIMIT, VOCABULARY)
BINS.flags.writeable = False


def encode(lataccel: Any) -> NDArray[np.int64]:
    """Return the tokens of lateral accelerations (m/s^2): the next bin at or above each value."""
    return np.searchsorted(BINS, np.clip(lataccel, -LIMIT, LIMIT), side="left")


def decode(tokens: Any) -> NDArray[np.float64]:
    """Return the lateral accelerations (m/s^2) of tokens."""
    return BINS[tokens]
