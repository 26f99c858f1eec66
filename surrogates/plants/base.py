"""Plants: what the next lateral-acceleration token is, given 20 steps of history.

A plant has comma's signature: ``states`` float32 (B, 20, 4) are (steer, roll_lataccel, v_ego,
a_ego), ``tokens`` int64 (B, 20) are the past lateral accelerations, one step older than the states.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from steerlab.surrogates.plants.tokens import BINS
from steerlab.types import Singles

CONTEXT = 20  # steps of history
TEMPERATURE = 0.8


class Plant(ABC):
    """Predicts the next token of B rows; no row influences another."""

    @abstractmethod
    def logits(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> Singles:
        """Return the logits (B, 1024) of the next token."""

    def sample(
        self,
        states: NDArray[np.float32],
        tokens: NDArray[np.int64],
        uniforms: NDArray[np.float64],
    ) -> NDArray[np.intp]:
        """Return the next tokens (B,), drawn with one uniform number in [0, 1) a row."""
        return draw(self.logits(states, tokens), uniforms)

    def expect(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the expected next lateral acceleration (B,), m/s^2, at the sampling temperature."""
        return probabilities(self.logits(states, tokens)) @ BINS


def probabilities(logits: Singles) -> Singles:
    """Return the float32 probabilities that the official simulator draws from."""
    scaled = logits / np.float32(TEMPERATURE)
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def cumulative(logits: Singles) -> NDArray[np.float64]:
    """Return the cumulative distribution (B, 1024) that ``numpy.random.choice(p=...)`` draws from."""
    cdf = np.cumsum(probabilities(logits), axis=-1, dtype=np.float64)
    cdf /= cdf[:, -1:]
    return cdf


def draw(logits: Singles, uniforms: NDArray[np.float64]) -> NDArray[np.intp]:
    """Draw one token a row exactly as ``numpy.random.choice(1024, p=...)`` does from its uniform."""
    return (cumulative(logits) <= uniforms[:, None]).sum(axis=-1)
