"""Harder episodes more often: the cross-entropy sampler of CeSoR, over uniform numbers.

CVaR learns from the worst share of the episodes only, so most of the experience teaches nothing. CeSoR
(Greenberg et al. 2022, arXiv 2205.05138) draws the conditions of an episode from a distribution that
it fits to the conditions of the worst episodes. It weights their returns by the ratio of the densities
(importance sampling), so that the objective stays that of the original conditions.

A task here makes an episode from uniform numbers in [0, 1). The sampler transforms them: each has a
histogram of its own. A share of the episodes keeps the uniform numbers, which bounds the weights.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.errors import InputError
from steerlab.types import Floats


class RiskSampler:
    """Histograms over D uniform numbers, fitted to the worst episodes.

    Args:
        names: What the D numbers decide.
        bins: Bins of each histogram.
        original: Share of the episodes that is drawn from the original distribution; no weight is
            larger than its inverse.
        rate: Share of the way to the histograms of the worst episodes that an update goes.
    """

    def __init__(
        self, names: tuple[str, ...], bins: int = 8, original: float = 0.2, rate: float = 0.2
    ) -> None:
        if not names or bins < 2:
            raise InputError(f"a sampler needs names and at least 2 bins, not {names} and {bins}")
        for name, value in (("original", original), ("rate", rate)):
            if not 0 < value <= 1:
                raise InputError(f"{name}={value} must be in (0, 1]")
        self.names, self.bins, self.original, self.rate = names, bins, original, rate
        self.shares = np.full((len(names), bins), 1 / bins)

    def draw(self, uniforms: Floats, coin: Floats) -> tuple[Floats, Floats]:
        """Return the numbers (N, D) that make N episodes, and the weights (N,) of these episodes.

        Args:
            uniforms: Uniform numbers in [0, 1), (N, D).
            coin: One more for each episode, (N,): below ``original`` the episode keeps its numbers.
        """
        edges = np.cumsum(self.shares, axis=1)
        edges[:, -1] = 1.0
        bent = np.empty_like(uniforms)
        for d, upper in enumerate(edges):
            bin_ = np.searchsorted(upper, uniforms[:, d], side="right")
            lower = np.where(bin_ > 0, upper[bin_ - 1], 0.0)
            inside = (uniforms[:, d] - lower) / self.shares[d, bin_]
            bent[:, d] = np.minimum((bin_ + inside) / self.bins, np.nextafter(1.0, 0.0))
        drawn = np.where((coin < self.original)[:, None], uniforms, bent)
        return drawn, self.weights(drawn)

    def weights(self, drawn: Floats) -> Floats:
        """Return the original density over the sampler's, (N,), at the numbers ``drawn`` (N, D)."""
        bins = (drawn * self.bins).astype(int)
        density = (self.bins * self.shares[np.arange(len(self.names)), bins]).prod(1)
        return 1 / (self.original + (1 - self.original) * density)

    def update(self, drawn: Floats, worst: NDArray[np.bool_], weights: Floats) -> None:
        """Move towards the conditions of the worst episodes.

        Args:
            drawn: Numbers of N episodes, (N, D).
            worst: Which of them belong to the worst share, (N,).
            weights: Their weights, (N,).
        """
        counted = weights * worst
        if not counted.any():
            return
        bins = (drawn * self.bins).astype(int)
        found = np.stack([np.bincount(b, counted, self.bins) for b in bins.T]) / counted.sum()
        # No bin becomes empty: rare conditions stay possible.
        shares = self.shares + self.rate * (found - self.shares)
        shares = np.maximum(shares, 0.1 / self.bins)
        self.shares = shares / shares.sum(1, keepdims=True)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep."""
        return {"shares": self.shares.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.shares = np.array(state["shares"])


def effective_sample_size(weights: Floats) -> float:
    """Return ``(sum w)^2 / sum w^2``: the number of unweighted episodes with as much information (Kish 1965)."""
    return float(weights.sum() ** 2 / np.square(weights).sum())


def weighted_quantile(values: Floats, weights: Floats, share: float) -> float:
    """Return the value below which ``share`` of the weight lies, linear between the values.

    With equal weights it is numpy's quantile.
    """
    order = np.argsort(values)
    ordered, weight = np.asarray(values, float)[order], np.asarray(weights, float)[order]
    if len(ordered) == 1:
        return float(ordered[0])
    # The places of the values between 0 and 1: middles of their weight, stretched to the ends.
    middle = np.cumsum(weight) - 0.5 * weight
    place = (middle - middle[0]) / (middle[-1] - middle[0])
    return float(np.interp(share, place, ordered))
