"""Anchors of plans: the centres of k-means over the knots of many."""

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from steerlab.errors import InputError

RESTARTS = 8


def anchors_of(knots: NDArray[np.floating], count: int, seed: int) -> NDArray[np.float32]:
    """Return ``count`` centres (count, D) of points (N, D), the largest cluster first.

    The best of several starts of k-means++ (Arthur and Vassilvitskii 2007).

    Raises:
        InputError: There are fewer points than centres.
    """
    points = np.asarray(knots, np.float64)
    if len(points) < count:
        raise InputError(f"{len(points)} plans are too few for {count} anchors; give more shards")
    best, least = None, np.inf
    for start in range(RESTARTS):
        centres, label = kmeans2(
            points, count, iter=50, minit="++", rng=np.random.default_rng([seed, start])
        )
        spread = float(((points - centres[label]) ** 2).sum())
        if spread < least:
            best, least = (centres, label), spread
    assert best is not None
    centres, label = best
    order = np.argsort(-np.bincount(label, minlength=count), kind="stable")
    return centres[order].astype(np.float32)
