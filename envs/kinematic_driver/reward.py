"""What a step is worth: progress, made less by discomfort and by leaving the path."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from steerlab.errors import InputError, unknown_name
from steerlab.types import AnyArray


@dataclass(frozen=True)
class Reward:
    """Weights of the reward.

    The base of a step is never negative, so that an episode that ends early always loses::

        100 / max_steps * progress * (1 - comfort * discomfort) * (1 - centring * off-centre)

    ``progress`` is the way along the path over the way at the set speed, at most 1; ``discomfort``
    rises from 0 at a jerk of ``jerk_free`` to 1 at ``jerk_full``; ``off-centre`` is the distance
    from the path over ``off_centre_full``, at most 1. A perfect drive at the set speed returns
    100. (A product rather than a sum of terms: CaRL, arXiv 2504.17838.)

    Shaping adds ``discount * potential(next) - potential(now)``, with potential 0 once the episode
    has terminated, which leaves the optimal policy as it was (Ng, Harada and Russell 1999) if the
    learner discounts by the same ``discount``.
    """

    comfort: float = 0.5  # share of the reward that full discomfort takes
    centring: float = 0.5  # share of the reward that driving off-centre takes
    jerk_free: float = 2.0  # m/s^3
    jerk_full: float = 8.0  # m/s^3
    off_centre_full: float = 1.0  # m
    shaping: float = 1.0  # potential of driving on the path, straight along it; 0 = no shaping
    discount: float = 0.99  # the learner's discount

    def __post_init__(self) -> None:
        for name in ("comfort", "centring", "discount"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"reward {name}={getattr(self, name)} must be in [0, 1]")
        if not 0 <= self.jerk_free < self.jerk_full:
            raise InputError(
                f"reward jerk_free={self.jerk_free} must be at least 0 and below "
                f"jerk_full={self.jerk_full}"
            )
        if self.off_centre_full <= 0 or self.shaping < 0:
            raise InputError("reward off_centre_full must be positive and shaping not negative")


def base_reward(
    xp: Any, weights: Reward, progress: AnyArray, jerk: AnyArray, offset: AnyArray
) -> AnyArray:
    """Return the base reward of a step as a share of a perfect one.

    Args:
        xp: Backend.
        weights: Weights.
        progress: Way along the path over the way at the set speed.
        jerk: Absolute jerk, m/s^3.
        offset: Distance from the path, m.
    """
    discomfort = xp.clip((jerk - weights.jerk_free) / (weights.jerk_full - weights.jerk_free), 0, 1)
    off_centre = xp.minimum(xp.abs(offset) / weights.off_centre_full, 1.0)
    factor = (1 - weights.comfort * discomfort) * (1 - weights.centring * off_centre)
    return xp.clip(progress, 0, 1) * factor


def potential(xp: Any, weights: Reward, offset: AnyArray, heading: AnyArray) -> AnyArray:
    """Return the potential of being ``offset`` (m) and ``heading`` (rad) away from the path.

    It is largest on the path and never negative, so that termination, with potential 0, costs it.
    """
    away = xp.abs(offset) / (2 * weights.off_centre_full) + 2 * xp.abs(heading)
    return weights.shaping * xp.maximum(1 - away, 0.0)


def shaping(weights: Reward, before: AnyArray, after: AnyArray) -> AnyArray:
    """Return what shaping adds to a step; ``after`` must be 0 where the episode terminated."""
    return weights.discount * after - before


def as_reward(weights: "Reward | Mapping[str, Any] | None") -> Reward:
    """Return ``weights`` as a :class:`Reward`; a mapping changes the defaults it names.

    Raises:
        InputError: A name is unknown or a value is out of range.
    """
    if isinstance(weights, Reward):
        return weights
    known = {f.name for f in fields(Reward)}
    for name in weights or {}:
        if name not in known:
            raise unknown_name("reward weight", name, known)
    return Reward(**(weights or {}))
