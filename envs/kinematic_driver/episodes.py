"""Episodes: everything that is drawn before the first step, from one block of uniform numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.kinematic_driver import randomization, roads
from steerlab.envs.kinematic_driver.randomization import Ranges
from steerlab.envs.kinematic_driver.roads import Roads

#: Uniform numbers that :func:`make` takes for an episode.
UNIFORMS = randomization.UNIFORMS + roads.UNIFORMS + 2

#: What an episode is apart from its road, in the order of the rows of a table of episodes.
EPISODE = (
    *randomization.NAMES,
    "spacing",
    "end",
    "desire_from",
    "desire_to",
    "oncoming",
    "noise_start",
    "noise_stride",
)


def make(
    ranges: Ranges, uniforms: NDArray[np.float64], max_steps: int, pins: Mapping[str, Any]
) -> tuple[NDArray[np.float32], Roads]:
    """Return n episodes as a table (len(EPISODE), n), and their roads.

    Args:
        ranges: Bounds of what is drawn.
        uniforms: Numbers in [0, 1), shape (n, UNIFORMS).
        max_steps: Length of an episode in steps.
        pins: Values that are set instead, from :func:`randomization.check_pins`.
    """
    for_values, for_road, for_noise = np.split(
        uniforms, [randomization.UNIFORMS, randomization.UNIFORMS + roads.UNIFORMS], axis=1
    )
    values = randomization.draw(ranges, for_values, pins)
    made = roads.generate(values, for_road, max_steps)
    if "start_heading" not in pins:
        values["start_heading"] = roads.recoverable_heading(values, made)
    values |= made.scalars
    values["spacing"], values["end"] = made.spacing, made.end
    values["noise_start"] = np.floor(for_noise[:, 0] * 65536)
    values["noise_stride"] = 2 * np.floor(for_noise[:, 1] * 2048) + 1
    return np.stack([values[name] for name in EPISODE], dtype=np.float32), made
