"""How far the predictions of one plant are from those of another."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from steerlab.types import Singles


def divergence(teacher: Singles, student: Singles, temperature: float) -> NDArray[np.float64]:
    """Return the Kullback-Leibler divergence (B,) of a student's logits from a teacher's, nats."""
    p, q = (log_probabilities(x / temperature) for x in (teacher, student))
    return (np.exp(p) * (p - q)).sum(axis=-1)


def log_probabilities(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the logarithms of the probabilities of logits (B, 1024), of the same shape."""
    logits = logits.astype(np.float64)
    return logits - logsumexp(logits, axis=-1, keepdims=True)
