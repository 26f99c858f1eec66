"""The official simulator over N rows: token alignment, clipping, noise and warm-up.

Semantics: commaai/controls_challenge, ``tinyphysics.py``. Row indices of a segment are time steps;
the controller steers from step 100, and costs count steps 100 to 499.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from steerlab.errors import InputError
from steerlab.surrogates.plants.base import CONTEXT, Plant
from steerlab.surrogates.plants.tokens import decode, encode
from steerlab.surrogates.segments.data import (
    CONTROL_START,
    COST_END,
    PLAN_STEPS,
    Segments,
    official_seed,
)
from steerlab.types import Floats

STEER_LIMIT = 2.0
MAX_CHANGE = 0.5  # m/s^2 per step
WARMUP_DRAWS = CONTROL_START - CONTEXT  # made and thrown away by the official simulator
STEPS = COST_END - CONTROL_START  # steps of an episode

Rows = slice | NDArray[np.intp]
ALL = slice(None)


class State(NamedTuple):
    """What a controller knows of the car now; arrays (N,) for N rows."""

    roll_lataccel: Floats  # m/s^2
    v_ego: Floats  # m/s
    a_ego: Floats  # m/s^2


class FuturePlan(NamedTuple):
    """The next 49 steps; arrays (N, 49) for N rows."""

    lataccel: Floats  # m/s^2
    roll_lataccel: Floats  # m/s^2
    v_ego: Floats  # m/s
    a_ego: Floats  # m/s^2


class Simulator:
    """N rows of the simulator, each at its own step of its own segment.

    Args:
        plant: What answers the steer.
        segments: The routes.
        num_rows: N.
        tail: Leave room for the steps after the last one that counts, up to the end of the files.

    Attributes:
        end: First step that is not driven: 500, or with ``tail`` the rows of the longest file.
        time: (N,) the step that the next action decides.
        segment: (N,) which segment a row drives.
        lataccel: (N, end) lateral acceleration of each step so far, m/s^2.
        steer: (N, end) steer of each step so far, positive to the right.
    """

    def __init__(self, plant: Plant, segments: Segments, num_rows: int, tail: bool = False) -> None:
        self.plant, self.segments = plant, segments
        self.end = end = int(segments.rows.max()) if tail else COST_END
        self.time = np.full(num_rows, CONTROL_START)
        self.segment = np.zeros(num_rows, dtype=np.intp)
        self.lataccel = np.zeros((num_rows, end))
        self.steer = np.zeros((num_rows, end))
        self._uniforms = np.zeros((num_rows, end - CONTROL_START))
        self._states = np.zeros((num_rows, end, 4), dtype=np.float32)
        self._tokens = np.zeros((num_rows, end), dtype=np.int64)
        # Padded by a plan's length so that looking ahead never leaves the arrays.
        s = segments
        self._road = np.stack([s.target, s.roll_lataccel, s.v_ego, s.a_ego])
        short = end + PLAN_STEPS + 1 - self._road.shape[2]
        if short > 0:
            self._road = np.pad(self._road, ((0, 0), (0, 0), (0, short)), mode="edge")

    def reset(self, rows: Rows, segment: NDArray[np.intp], seeds: Sequence[int]) -> None:
        """Put ``rows`` at the first step that is controlled.

        During the warm-up the car follows its target under the logged steer and nothing depends
        on the plant, so no plant is called; only the generator moves on.

        Args:
            rows: Rows to reset.
            segment: (n,) segment of each of them.
            seeds: Seed of each row's noise.
        """
        chosen = np.arange(len(self.time))[rows]
        self.segment[chosen], self.time[chosen] = segment, CONTROL_START
        warmup = slice(0, CONTROL_START)
        steer = self.segments.steer[segment].copy()
        steer[:, CONTEXT:] = np.clip(steer[:, CONTEXT:], -STEER_LIMIT, STEER_LIMIT)
        self.steer[chosen, warmup] = steer
        self.lataccel[chosen, warmup] = self._road[0, segment, warmup]
        self._tokens[chosen, warmup] = encode(self.lataccel[chosen, warmup])
        self._states[chosen, warmup, 0] = steer
        for place in range(3):
            self._states[chosen, :, place + 1] = self._road[place + 1, segment, : self.end]
        draws = WARMUP_DRAWS + self._uniforms.shape[1]
        for row, seed in zip(chosen, seeds, strict=True):
            self._uniforms[row] = RandomState(seed).random_sample(draws)[WARMUP_DRAWS:]

    def advance(self, actions: Floats, rows: Rows = ALL, uniforms: Floats | None = None) -> None:
        """Apply one steer (n,) to each of ``rows`` and draw the next lateral acceleration.

        Args:
            actions: (n,) steer.
            rows: Which rows move on.
            uniforms: (n,) numbers in [0, 1) to draw with; those of the row's seed by default.

        Raises:
            InputError: An action is not a finite number.
        """
        if not np.isfinite(actions).all():
            row = np.arange(len(self.time))[rows][np.flatnonzero(~np.isfinite(actions))[0]]
            name = self.segments.names[self.segment[row]]
            raise InputError(
                f"the action for segment {name} at step {self.time[row]} is not finite"
            )
        time = self.time[rows]
        actions = np.clip(actions, -STEER_LIMIT, STEER_LIMIT)
        first = int(time[0])
        if isinstance(rows, slice) and (time == first).all():  # in lockstep: views, no copies
            here: tuple[Any, Any] = (rows, first)
            states = self._states[rows, first - CONTEXT + 1 : first + 1]
            tokens = self._tokens[rows, first - CONTEXT : first]
            before = self.lataccel[rows, first - 1]
        else:
            index = np.arange(len(self.time))[rows]
            here = (index, time)
            window = time[:, None] + np.arange(-CONTEXT, 0)
            states = self._states[index[:, None], window + 1]
            tokens = self._tokens[index[:, None], window]
            before = self.lataccel[index, time - 1]
        self.steer[here] = actions
        self._states[(*here, 0)] = actions
        states[:, -1, 0] = actions
        if uniforms is None:
            uniforms = self._uniforms[here[0], here[1] - CONTROL_START]
        drawn = self.plant.sample(states, tokens, uniforms)
        lataccel = np.clip(decode(drawn), before - MAX_CHANGE, before + MAX_CHANGE)
        self.lataccel[here] = lataccel
        self._tokens[here] = encode(lataccel)
        self.time[rows] = time + 1

    def current(self, rows: Rows = ALL) -> Floats:
        """Return the lateral acceleration (n,) before the next action, m/s^2."""
        index = np.arange(len(self.time))[rows]
        return self.lataccel[index, self.time[rows] - 1]

    def road(self, time: NDArray[np.intp] | int, rows: Rows = ALL) -> tuple[Floats, State]:
        """Return target (n,) and state of ``rows`` at a step."""
        target, *state = self._road[:, self.segment[rows], time]
        return target, State(*state)

    def plan(self, time: NDArray[np.intp] | int, rows: Rows = ALL) -> FuturePlan:
        """Return the 49 steps after ``time`` for ``rows``."""
        if np.ndim(time) == 0:
            return FuturePlan(*self._road[:, self.segment[rows], time + 1 : time + 1 + PLAN_STEPS])
        steps = np.asarray(time)[:, None] + np.arange(1, PLAN_STEPS + 1)
        return FuturePlan(*self._road[:, self.segment[rows][:, None], steps])

    def targets(self, rows: Rows = ALL) -> Floats:
        """Return the targets (n, 500) of the steps up to the end of the costs, m/s^2."""
        return self._road[0, self.segment[rows], :COST_END]


def noise_seeds(names: Sequence[str], seeds: str) -> list[int]:
    """Return the seed of each route's noise: ``"official"``, or any other text as a salt."""
    salt = "" if seeds == "official" else seeds
    return [official_seed(name, salt) for name in names]
