"""N cars on N roads: the state of the task and one step of it, on numpy or torch."""

from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.kinematic_driver import dynamics, roads
from steerlab.envs.kinematic_driver.dynamics import DT, State, Vehicle
from steerlab.envs.kinematic_driver.episodes import EPISODE
from steerlab.envs.kinematic_driver.observation import X_IDXS, error_basis, seen_lines
from steerlab.envs.kinematic_driver.randomization import (
    TURN_LEFT,
    TURN_RIGHT,
)
from steerlab.envs.kinematic_driver.reward import Reward, base_reward, potential, shaping

#: How an episode can fail, by number; 0 means it did not.
VIOLATIONS = ("none", "boundary", "cut", "wrong_way", "stall")
BOUNDARY, CUT, WRONG_WAY, STALL = range(1, 5)

STALL_SPEED = 0.5  # m/s
STALL_STEPS = 40
ERROR_TIME = 2.0  # s, over which the errors of seen lines forget

_DELAY_STEPS = 22  # commands kept: a delay of 1 s and one more
_POSE_STEPS = 6  # poses kept: a latency of 0.2 s and one more
_NOISE_ROWS = 1 << 16
_NORMALS = 12  # of the 16 numbers in a row of noise; the others are uniform

Array = Any


@cache
def noise_table() -> NDArray[np.float32]:
    """Return the pool of noise (65536, 16): twelve normal and four uniform columns.

    Step t of an episode uses row ``start + t * stride``, where start and odd stride are drawn by
    the episode. So noise costs one lookup, depends on nothing but the episode's own seed, and is
    the same on every backend.
    """
    rng = np.random.default_rng(20260101)
    normal = rng.standard_normal((_NOISE_ROWS, _NORMALS), np.float32)
    return np.hstack([normal, rng.random((_NOISE_ROWS, 16 - _NORMALS), np.float32)])


@dataclass(frozen=True)
class Outcome:
    """What a step gave, each an array (N,)."""

    reward: Array
    base: Array  # the reward without shaping
    terminated: Array
    truncated: Array


@dataclass
class _Place:
    """The road where the cars are, each an array (N,)."""

    kappa: Array  # 1/m
    kappa_slope: Array  # 1/m^2
    planned_speed: Array  # m/s
    left: Array  # m from the path to the left boundary
    right: Array  # m


class Simulator:
    """State of N rows, each of which drives on the road in one slot of the tables.

    Args:
        rows: Number of rows.
        slots: Number of roads that the tables hold.
        max_steps: Length of an episode in steps.
        weights: Weights of the reward.
        xp: Backend.
    """

    def __init__(self, rows: int, slots: int, max_steps: int, weights: Reward, xp: Any) -> None:
        self.rows, self.max_steps, self.weights, self.xp = rows, max_steps, weights, xp
        self.knots = roads.knots(max_steps)
        self.view = xp.zeros(slots * self.knots, 8)
        self.plan = xp.zeros(slots * self.knots, 4)
        self.noise = xp.asarray(noise_table())
        self.basis = xp.asarray(error_basis())
        self.ahead = xp.asarray(X_IDXS)
        self.columns = xp.arange(rows)
        self.clock = 0

        def each(names: Any) -> dict[str, Array]:
            return {name: xp.zeros(rows) for name in names}

        self.state = State(**each(f.name for f in fields(State)))
        self.table = xp.zeros(len(EPISODE), rows)
        self.episode = dict(zip(EPISODE, self.table, strict=True))
        self.vehicle = Vehicle(**{f.name: self.episode[f.name] for f in fields(Vehicle)})
        self.place = _Place(**each(f.name for f in fields(_Place)))
        self.base = xp.integers(xp.zeros(rows))
        self.points = xp.zeros(rows, len(X_IDXS))  # distances ahead in knots
        self.time = xp.integers(xp.zeros(rows))
        self.stalled = xp.zeros(rows)  # steps below the stall speed
        self.commands = xp.zeros(_DELAY_STEPS, rows)
        self.poses = xp.zeros(3, _POSE_STEPS, rows)
        self.delay = self._split_time(xp.zeros(rows))
        self.latency = self._split_time(xp.zeros(rows))
        self.errors = xp.zeros(rows, 9)  # of the lines, in standard deviations
        self.seen = [xp.zeros(rows) for _ in range(3)]  # s, d and psi of the last frame
        self.seen_errors = xp.zeros(rows, 9)
        self.blind = xp.zeros(rows)  # frames that are still to be lost
        self.sensors = xp.zeros(rows, 3)  # speed, acceleration, curvature as measured
        self.action = xp.zeros(rows, 2)
        self.potential = xp.zeros(rows)
        self.violation = xp.integers(xp.zeros(rows))
        self.jerk = xp.zeros(rows)
        self.sums = each(("jerk", "heading", "progress", "offset_max", "return"))
        self.history = xp.zeros(max_steps, rows)  # absolute offset, a ring over the clock
        self.error_keep = float(np.exp(-DT / ERROR_TIME))

    def store(self, slots: Array, made: roads.Roads) -> None:
        """Write roads into the tables; ``slots`` (n,) are where they go."""
        for table, values in ((self.view, made.view), (self.plan, made.plan)):
            table.reshape(-1, self.knots, table.shape[1])[slots] = self.xp.asarray(values)

    def start(self, rows: Array, slots: Array, table: Array) -> None:
        """Begin an episode in ``rows`` (n,): on the roads of ``slots``, with the values ``table``.

        The table (len(EPISODE), n) comes from :func:`episodes.make`.
        """
        xp = self.xp
        self.table[:, rows] = table
        episode = dict(zip(EPISODE, table, strict=True))
        self.base[rows] = slots * self.knots
        self.points[rows] = self.ahead / episode["spacing"][:, None]
        zero = 0.0 * episode["spacing"]
        s = zero + roads.START
        where = self._locate(s, self.base[rows], episode["spacing"])
        place = self._place(*where)
        v = place.planned_speed * episode["start_speed"]
        d, psi, k = episode["start_offset"], episode["start_heading"], place.kappa
        # The car arrives steering with the road: the commands still on their way hold the bend.
        start = State(s=s, d=d, psi=psi, v=v, a=zero, k=k, k_actuator=k, k_command=k, k_smooth=k,
                      a_smooth=zero)  # fmt: skip
        for part in fields(State):
            getattr(self.state, part.name)[rows] = getattr(start, part.name)
        for part in fields(_Place):
            getattr(self.place, part.name)[rows] = getattr(place, part.name)
        self.commands[:, rows] = k
        for kept, seen, value in zip(self.poses, self.seen, (s, d, psi), strict=True):
            kept[:, rows] = value
            seen[rows] = value
        for ours, name in ((self.delay, "lateral_delay"), (self.latency, "vision_latency")):
            for part, value in zip(ours, self._split_time(episode[name]), strict=True):
                part[rows] = value
        for part in (self.action, self.time, self.stalled, self.blind, self.violation, self.jerk):
            part[rows] = 0
        for total in self.sums.values():
            total[rows] = 0
        noise = self._noise(episode["noise_start"], episode["noise_stride"], 0)
        self.errors[rows] = noise[:, :9]
        self.seen_errors[rows] = noise[:, :9]
        self.sensors[rows] = self._measure(v, zero, k, noise, episode)
        self.potential[rows] = potential(xp, self.weights, d, psi)

    def step(self, actions: Array) -> Outcome:
        """Advance all rows; ``actions`` (N, 2) are float32 and finite."""
        xp, old, episode = self.xp, self.state, self.episode
        self.clock += 1
        self.time = self.time + 1
        self.action = xp.clip(actions, -1.0, 1.0)
        shaped = dynamics.shape_commands(
            xp, old, self.vehicle, *dynamics.decode_action(xp, self.action, old.v)
        )
        self.commands[self.clock % _DELAY_STEPS] = shaped[2]
        delayed = self._past(self.commands, self.delay)
        here = (self.place.kappa, self.place.kappa_slope)
        new = self.state = dynamics.advance(xp, old, self.vehicle, shaped, delayed, here)
        where = self._locate(new.s, self.base, episode["spacing"])
        place = self.place = self._place(*where)
        self._look(where)

        jerk_long = (new.a - old.a) / DT
        jerk_side = (new.k * new.v * new.v - old.k * old.v * old.v) / DT
        square = jerk_long * jerk_long + jerk_side * jerk_side
        self.jerk = xp.sqrt(square)
        offset = xp.abs(new.d)
        self.history[self.clock % self.max_steps] = offset

        self.violation = self._violations(place)
        terminated = self.violation > 0
        truncated = ((self.time >= self.max_steps) | (new.s >= episode["end"])) & ~terminated
        progress = (new.s - old.s) / (episode["cruise_speed"] * DT)
        scale = 100.0 / self.max_steps
        base = scale * base_reward(xp, self.weights, progress, self.jerk, offset)
        after = potential(xp, self.weights, offset, new.psi)
        reward = base
        if self.weights.shaping:
            reward = base + shaping(
                self.weights, self.potential, xp.where(terminated, 0 * after, after)
            )
            self.potential = after
        sums = self.sums
        sums["jerk"] = sums["jerk"] + square
        sums["heading"] = sums["heading"] + xp.abs(new.psi)
        sums["progress"] = sums["progress"] + scale * xp.clip(progress, 0, 1)
        sums["offset_max"] = xp.maximum(sums["offset_max"], offset)
        sums["return"] = sums["return"] + base
        return Outcome(reward, base, terminated, truncated)

    def observe(self, rows: Any, out: Array) -> None:
        """Write the observations of ``rows`` (a slice or indices) to ``out`` (n, LAYOUT.size)."""
        xp, episode = self.xp, {name: self.episode[name][rows] for name in _SEEN}
        n = len(out)
        out[:, 0:3] = self.sensors[rows]
        out[:, 3:5] = self.action[rows]
        out[:, 5] = xp.maximum(
            episode["lateral_delay"] + episode["smoothing"] + episode["delay_error"], 0.0
        )
        out[:, 6] = episode["cruise_speed"]
        out[:, 7:17] = 0.0
        s = self.state.s[rows]
        wanted = (s >= episode["desire_from"]) & (s <= episode["desire_to"])
        desire = xp.where(wanted, episode["desire"], 0 * s)
        cells = self.columns[:n]
        out[cells, 7 + xp.integers(desire)] = 1.0
        out[cells, 15 + xp.integers(episode["left_hand_traffic"])] = 1.0

        # Too dark and too bright both blur.
        gain = episode["brightness"]
        scale = episode["geometry_noise"] * xp.maximum(gain, 1 / gain)
        xp.matmul(self.seen_errors[rows] * scale[:, None], self.basis, out[:, 17:])

        base, spacing = self.base[rows], episode["spacing"]
        s, d, psi = (part[rows] for part in self.seen)
        index, along = self._locate(s, base, spacing)
        knot_x, knot_y, heading, mean, *_ = xp.take_columns(self.view, index)
        bend = along * mean
        chord = heading + 0.5 * bend
        heading = heading + bend
        pose = (
            knot_x + along * xp.cos(chord) - d * xp.sin(heading),
            knot_y + along * xp.sin(chord) + d * xp.cos(heading),
            heading + psi,
        )
        first = (along / spacing)[:, None]
        places = self.points[rows] + first
        whole = xp.floor(places)
        places -= whole
        places *= spacing[:, None]
        index = xp.integers(whole) + index[:, None]
        seen_lines(xp, pose, places, xp.take_columns(self.view, index), out[:, 17:])

    def preview(self, distances: Array) -> dict[str, Array]:
        """Return the true path ``distances`` (N, M) m ahead: what a controller with a map knows.

        Returns:
            ``curvature`` (1/m) and ``planned_speed`` (m/s), each (N, M).
        """
        s = self.state.s[:, None] + distances
        index, along = self._locate(s, self.base[:, None], self.episode["spacing"][:, None])
        plan = self.xp.take_columns(self.plan, index)
        return {
            "curvature": plan[0] + along * plan[1],
            "planned_speed": plan[2] + along * plan[3],
        }

    def metrics(self, rows: Array) -> dict[str, Array]:
        """Return the summary of the episodes of ``rows`` (n,) so far, each (n,)."""
        counts = self.time[rows]
        steps = self.xp.maximum(self.xp.asarray(counts), 1.0)
        return {
            "cte_max": self.sums["offset_max"][rows],
            "heading_error_mean": self.sums["heading"][rows] / steps,
            "jerk_rms": self.xp.sqrt(self.sums["jerk"][rows] / steps),
            "progress": self.sums["progress"][rows],
            "base_return": self.sums["return"][rows],
        }

    def offset_percentiles(self, rows: Array) -> list[Array]:
        """Return the median and the 95th percentile of the absolute offset (m), each (n,)."""
        counts = self.time[rows]
        longest = int(counts.max())
        steps = (self.clock - self.xp.arange(longest)) % self.max_steps
        return self.xp.percentiles(self.history[steps][:, rows].T, counts, (0.5, 0.95))

    def _locate(self, s: Array, base: Array, spacing: Array) -> tuple[Array, Array]:
        """Return the table row of the knot before ``s`` and the distance from it, m."""
        at = self.xp.clip(s / spacing, 0.0, self.knots - 1.001)
        whole = self.xp.floor(at)
        return base + self.xp.integers(whole), (at - whole) * spacing

    def _place(self, index: Array, along: Array) -> _Place:
        plan = self.xp.take_columns(self.plan, index)
        lines = self.xp.take_columns(self.view, index)[4:]
        return _Place(
            kappa=plan[0] + along * plan[1],
            kappa_slope=plan[1],
            planned_speed=plan[2] + along * plan[3],
            left=lines[0] + along * lines[1],
            right=lines[2] + along * lines[3],
        )

    def _split_time(self, seconds: Array) -> tuple[Array, Array]:
        """Return a time as whole steps and the remaining fraction of one."""
        whole = self.xp.floor(seconds / DT)
        return self.xp.integers(whole), seconds / DT - whole

    def _past(self, ring: Array, ago: tuple[Array, Array]) -> Array:
        """Return each row's value of ``ring`` (D, N) from ``ago``, linear between steps.

        For a command that is held for a step, this is its mean over the step.
        """
        whole, fraction = ago
        length = len(ring)
        at = (self.clock - whole) % length
        before = (self.clock - whole - 1) % length
        later = ring[at, self.columns]
        return later + fraction * (ring[before, self.columns] - later)

    def _noise(self, start: Array, stride: Array, time: Any) -> Array:
        """Return the noise (n, 16) of step ``time`` of episodes with these starts and strides."""
        start, stride = self.xp.integers(start), self.xp.integers(stride)
        return self.xp.take_rows(self.noise, (start + stride * time) % _NOISE_ROWS)

    def _measure(self, v: Array, a: Array, k: Array, noise: Array, episode: Any) -> Array:
        out = self.xp.empty(len(v), 3)
        out[:, 0] = v + episode["speed_bias"] + episode["speed_noise"] * noise[:, 9]
        out[:, 1] = a + episode["acceleration_noise"] * noise[:, 10]
        out[:, 2] = k + episode["curvature_bias"] + episode["curvature_noise"] * noise[:, 11]
        return out

    def _look(self, where: tuple[Array, Array]) -> None:
        """Update sensors and the last camera frame: latency, lost frames, errors of the lines."""
        xp, episode, state = self.xp, self.episode, self.state
        noise = self._noise(episode["noise_start"], episode["noise_stride"], self.time)
        self.sensors = self._measure(state.v, state.a, state.k, noise, episode)
        keep = self.error_keep
        self.errors = keep * self.errors + float(np.sqrt(1 - keep**2)) * noise[:, :9]
        # Bursts of 1 to 5 frames, 3 in the mean, so that the share of lost frames is as drawn.
        share = episode["dropout"]
        begins = (noise[:, 12] < share / (3 - 2 * share)) & (self.blind <= 0)
        burst = 1 + xp.floor(5 * noise[:, 13])
        self.blind = xp.where(begins, burst, self.blind - 1)
        lost = self.blind > 0
        now = self.clock % _POSE_STEPS
        for i, value in enumerate((state.s, state.d, state.psi)):
            self.poses[i][now] = value
            self.seen[i] = xp.where(lost, self.seen[i], self._past(self.poses[i], self.latency))
        self.seen_errors = xp.where(lost[:, None], self.seen_errors, self.errors)

    def _violations(self, place: _Place) -> Array:
        """Return what each row has done wrong, by number of :data:`VIOLATIONS`."""
        xp, state, episode = self.xp, self.state, self.episode
        body = dynamics.corners(xp, state.d, state.psi, place.kappa)
        ahead = state.s + dynamics.FRONT * xp.cos(state.psi)
        index, along = self._locate(ahead, self.base, episode["spacing"])
        lines = xp.take_columns(self.view, index)[4:]
        front_left = lines[0] + along * lines[1]
        front_right = lines[2] + along * lines[3]
        right = (body[0] > front_right) | (body[2] > place.right)
        left = (body[1] < -front_left) | (body[3] < -place.left)

        desire = episode["desire"]
        turning = (state.s >= episode["desire_from"]) & (state.s <= episode["desire_to"])
        cut = turning & ((right & (desire == TURN_RIGHT)) | (left & (desire == TURN_LEFT)))
        side = xp.where(episode["left_hand_traffic"] > 0, state.d, -state.d)
        wrong = (xp.abs(state.psi) > 0.5 * np.pi) | (side > episode["oncoming"])
        self.stalled = xp.where(state.v < STALL_SPEED, self.stalled + 1, 0 * self.stalled)
        code = xp.integers(0 * self.time)
        code = xp.where(self.stalled > STALL_STEPS, code + STALL, code)
        code = xp.where(wrong, 0 * code + WRONG_WAY, code)
        code = xp.where(right | left, 0 * code + BOUNDARY, code)
        return xp.where(cut, 0 * code + CUT, code)


_SEEN = (
    "lateral_delay",
    "smoothing",
    "delay_error",
    "cruise_speed",
    "desire_from",
    "desire_to",
    "desire",
    "left_hand_traffic",
    "brightness",
    "geometry_noise",
    "spacing",
)
