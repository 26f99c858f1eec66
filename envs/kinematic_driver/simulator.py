"""N cars on N roads: the state of the task and one step of it, on numpy or torch."""

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.kinematic_driver import dynamics, roads
from steerlab.envs.kinematic_driver.dynamics import DT, State, Vehicle
from steerlab.envs.kinematic_driver.episodes import EPISODE
from steerlab.envs.kinematic_driver.observation import (
    POINTS,
    X_IDXS,
    blindness,
    blur,
    camera,
    error_basis,
    seen_lines,
)
from steerlab.envs.kinematic_driver.reward import Reward, base_reward, potential, shaping
from steerlab.envs.kinematic_driver.roads import Place, locate, place
from steerlab.envs.kinematic_driver.violations import judge, stalled
from steerlab.types import AnyArray

ERROR_TIME = 2.0  # s, over which the errors of seen lines forget

DELAY_STEPS = 22  # commands kept: a delay of 1 s and one more
POSE_STEPS = 6  # poses kept: a latency of 0.2 s and one more
NOISE_ROWS = 1 << 16
#: What is summed up over an episode.
SUMS = ("jerk", "heading", "progress", "offset_max", "return")
_NORMALS = 12  # of the 16 numbers in a row of noise; the others are uniform


@cache
def noise_table() -> NDArray[np.float32]:
    """Return the pool of noise (65536, 16): twelve normal and four uniform columns.

    Step t of an episode uses row ``start + t * stride``, where start and odd stride are drawn by
    the episode. So noise costs one lookup, depends on nothing but the episode's own seed, and is
    the same on every backend.
    """
    rng = np.random.default_rng(20260101)
    normal = rng.standard_normal((NOISE_ROWS, _NORMALS), np.float32)
    return np.hstack([normal, rng.random((NOISE_ROWS, 16 - _NORMALS), np.float32)])


@dataclass(frozen=True)
class Outcome:
    """What a step gave, each an array (N,)."""

    reward: AnyArray
    base: AnyArray  # the reward without shaping
    terminated: AnyArray
    truncated: AnyArray


class Simulator:
    """State of N rows, each of which drives on the road in one slot of the tables.

    Args:
        rows: Number of rows.
        slots: Number of roads that the tables hold.
        max_steps: Length of an episode in steps.
        weights: Weights of the reward.
        xp: Backend.
        knots: Knots of a road; by default as many as those of :mod:`roads` have.
    """

    chunk = 1024  # rows to observe at once: the temporaries stay in the cache of a core
    #: What :meth:`_derive` makes.
    derived: ClassVar[tuple[str, ...]] = (
        "noise", "basis", "ahead", "columns", "episode", "vehicle",
    )  # fmt: skip

    def __init__(
        self,
        rows: int,
        slots: int,
        max_steps: int,
        weights: Reward,
        xp: Any,
        knots: int | None = None,
    ) -> None:
        self.rows, self.max_steps, self.weights, self.xp = rows, max_steps, weights, xp
        self.knots = roads.knots(max_steps) if knots is None else knots
        self.view = xp.zeros(slots * self.knots, 8)
        self.plan = xp.zeros(slots * self.knots, 4)
        self.clock = 0

        def each(names: Any) -> dict[str, AnyArray]:
            return {name: xp.zeros(rows) for name in names}

        self.state = State(**each(State._fields))
        self.table = xp.zeros(len(EPISODE), rows)
        self.place = Place(**each(Place._fields))
        self.base = xp.integers(xp.zeros(rows))
        self.points = xp.zeros(rows, len(X_IDXS))  # distances ahead in knots
        self.time = xp.integers(xp.zeros(rows))
        self.stalled = xp.zeros(rows)  # steps below the stall speed
        self.commands = xp.zeros(DELAY_STEPS, rows)
        self.poses = xp.zeros(3, POSE_STEPS, rows)
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
        self.sums = each(SUMS)
        self.history = xp.zeros(max_steps, rows)  # absolute offset, a ring over the clock
        self.error_keep = float(np.exp(-DT / ERROR_TIME))
        self._derive()

    def _derive(self) -> None:
        """Make what follows from the state: constants, and views of arrays that are the state.

        A copy has arrays of its own, and views of the old ones would show the old simulator.
        So a copy or a pickle leaves out all of :data:`derived` and calls this.
        """
        xp = self.xp
        self.noise = xp.asarray(noise_table())
        self.basis = xp.asarray(error_basis())
        self.ahead = xp.asarray(X_IDXS)
        self.columns = xp.arange(self.rows)
        self.episode = dict(zip(EPISODE, self.table, strict=True))
        self.vehicle = Vehicle(**{name: self.episode[name] for name in Vehicle._fields})

    def __getstate__(self) -> dict[str, Any]:
        return {name: part for name, part in vars(self).items() if name not in self.derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._derive()

    def use_weights(self, weights: Reward) -> None:
        """Pay by other weights from now on."""
        self.weights = weights
        value = potential(self.xp, weights, self.state.d, self.state.psi)
        self.potential = self.xp.asarray(value)
        self._derive()

    def store(self, slots: AnyArray, made: roads.Roads) -> None:
        """Write roads into the tables; ``slots`` (n,) are where they go."""
        for table, values in ((self.view, made.view), (self.plan, made.plan)):
            table.reshape(-1, self.knots, table.shape[1])[slots] = self.xp.asarray(values)

    def start(self, rows: AnyArray, slots: AnyArray, table: AnyArray) -> None:
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
        here = self._place(s, self.base[rows], episode["spacing"])
        v = here.planned_speed * episode["start_speed"]
        d, psi, k = episode["start_offset"], episode["start_heading"], here.kappa
        # The car arrives steering with the road: the commands still on their way hold the bend.
        start = State(s=s, d=d, psi=psi, v=v, a=zero, k=k, k_actuator=k, k_command=k, k_smooth=k,
                      a_smooth=zero)  # fmt: skip
        for part, value in zip((*self.state, *self.place), (*start, *here), strict=True):
            part[rows] = value
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

    def slow_down(self, rows: AnyArray, speed: AnyArray) -> None:
        """Let new episodes in ``rows`` (n,) begin at no more than ``speed`` (n,) m/s."""
        now = self.state.v[rows]
        speed = self.xp.minimum(now, speed)
        self.state.v[rows] = speed
        self.sensors[rows, 0] += speed - now

    def step(self, actions: AnyArray) -> Outcome:
        """Advance all rows; ``actions`` (N, 2) are float32 and finite."""
        xp, old, episode = self.xp, self.state, self.episode
        self.clock += 1
        self.time = self.time + 1
        self.action = xp.clip(actions, -1.0, 1.0)
        shaped = dynamics.shape_commands(
            xp, old, self.vehicle, *dynamics.decode_action(xp, self.action, old.v)
        )
        self.commands[self.clock % DELAY_STEPS] = shaped[2]
        delayed = self._past(self.commands, self.delay)
        here = (self.place.kappa, self.place.kappa_slope)
        new = self.state = self._advance(old, shaped, delayed, here)
        self.place = self._place(new.s, self.base, episode["spacing"])
        self._look()

        square = dynamics.squared_jerk(old, new)
        self.jerk = xp.sqrt(square)
        offset = xp.abs(new.d)
        self.history[self.clock % self.max_steps] = offset

        self.violation = self._violations()
        terminated = self.violation > 0
        truncated = ((new.s >= episode["end"]) & ~terminated) | (self.time >= self.max_steps)
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

    def _advance(
        self, old: State, shaped: tuple[AnyArray, AnyArray, AnyArray], delayed: AnyArray, here: Any
    ) -> State:
        """Return the state one step later; a car that somebody else moves replaces this."""
        return dynamics.advance(self.xp, old, self.vehicle, shaped, delayed, here)

    def observe(self, rows: Any, out: AnyArray) -> None:
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

        scale = blur(xp, episode["geometry_noise"], episode["brightness"])
        xp.matmul(self.seen_errors[rows] * scale[:, None], self.basis, out[:, 17:])

        base, spacing = self.base[rows], episode["spacing"]
        s, d, psi = (part[rows] for part in self.seen)
        index, along = self._locate(s, base, spacing)
        pose = camera(xp, tuple(xp.take_columns(self.view, index)[:4]), along, d, psi)
        first = (along / spacing)[:, None]
        places = self.points[rows] + first
        whole = xp.floor(places)
        places -= whole
        places *= spacing[:, None]
        index = xp.integers(whole) + index[:, None]
        x, y, heading = (part[:, None] for part in pose)
        lines = seen_lines(xp, (x, y, heading), places, xp.take_columns(self.view, index))
        for i, line in enumerate(lines):
            begin = 17 + POINTS * i
            out[:, begin : begin + POINTS] += line

    def preview(self, distances: AnyArray) -> dict[str, AnyArray]:
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

    def metrics(self, rows: AnyArray) -> dict[str, AnyArray]:
        """Return the summary of the episodes of ``rows`` (n,) so far, each (n,)."""
        counts = self.time[rows]
        steps = self.xp.maximum(self.xp.asarray(counts), 1.0)
        return {
            "cte_max": self.sums["offset_max"][rows] + 0.0,  # copies, never views of the sums
            "heading_error_mean": self.sums["heading"][rows] / steps,
            "jerk_rms": self.xp.sqrt(self.sums["jerk"][rows] / steps),
            "progress": self.sums["progress"][rows] + 0.0,
            "base_return": self.sums["return"][rows] + 0.0,
        }

    def offset_percentiles(self, rows: AnyArray) -> list[AnyArray]:
        """Return the median and the 95th percentile of the absolute offset (m), each (n,)."""
        counts = self.time[rows]
        longest = int(counts.max())
        steps = (self.clock - self.xp.arange(longest)) % self.max_steps
        return self.xp.percentiles(self.history[steps, rows[:, None]], counts, (0.5, 0.95))

    def _locate(self, s: AnyArray, base: AnyArray, spacing: AnyArray) -> tuple[AnyArray, AnyArray]:
        """Return the table row of the knot before ``s`` and the distance from it, m."""
        whole, along = locate(self.xp, s, spacing, self.knots)
        return base + self.xp.integers(whole), along

    def _place(self, s: AnyArray, base: AnyArray, spacing: AnyArray) -> Place:
        """Return the road at ``s``."""
        index, along = self._locate(s, base, spacing)
        plan = self.xp.take_columns(self.plan, index)
        return place(plan, self.xp.take_columns(self.view, index)[4:], along)

    def _split_time(self, seconds: AnyArray) -> tuple[AnyArray, AnyArray]:
        """Return a time as whole steps and the remaining fraction of one."""
        whole = self.xp.floor(seconds / DT)
        return self.xp.integers(whole), seconds / DT - whole

    def _past(self, ring: AnyArray, ago: tuple[AnyArray, AnyArray]) -> AnyArray:
        """Return each row's value of ``ring`` (D, N) from ``ago``, linear between steps.

        For a command that is held for a step, this is its mean over the step.
        """
        whole, fraction = ago
        length = len(ring)
        at = (self.clock - whole) % length
        before = (self.clock - whole - 1) % length
        later = ring[at, self.columns]
        return later + fraction * (ring[before, self.columns] - later)

    def _noise(self, start: AnyArray, stride: AnyArray, time: Any) -> AnyArray:
        """Return the noise (n, 16) of step ``time`` of episodes with these starts and strides."""
        start, stride = self.xp.integers(start), self.xp.integers(stride)
        return self.xp.take_rows(self.noise, (start + stride * time) % NOISE_ROWS)

    def _measure(
        self, v: AnyArray, a: AnyArray, k: AnyArray, noise: AnyArray, episode: Any
    ) -> AnyArray:
        out = self.xp.empty(len(v), 3)
        out[:, 0] = v + episode["speed_bias"] + episode["speed_noise"] * noise[:, 9]
        out[:, 1] = a + episode["acceleration_noise"] * noise[:, 10]
        out[:, 2] = k + episode["curvature_bias"] + episode["curvature_noise"] * noise[:, 11]
        return out

    def _look(self) -> None:
        """Update sensors and the last camera frame: latency, lost frames, errors of the lines."""
        xp, episode, state = self.xp, self.episode, self.state
        noise = self._noise(episode["noise_start"], episode["noise_stride"], self.time)
        self.sensors = self._measure(state.v, state.a, state.k, noise, episode)
        keep = self.error_keep
        self.errors = keep * self.errors + float(np.sqrt(1 - keep**2)) * noise[:, :9]
        self.blind = blindness(xp, self.blind, episode["dropout"], noise[:, 12], noise[:, 13])
        lost = self.blind > 0
        now = self.clock % POSE_STEPS
        for i, value in enumerate((state.s, state.d, state.psi)):
            self.poses[i][now] = value
            self.seen[i] = xp.where(lost, self.seen[i], self._past(self.poses[i], self.latency))
        self.seen_errors = xp.where(lost[:, None], self.seen_errors, self.errors)

    def _violations(self) -> AnyArray:
        """Return what each row has done wrong, by number of :data:`violations.VIOLATIONS`."""
        xp, state, episode = self.xp, self.state, self.episode
        self.stalled = stalled(xp, self.stalled, state.v)
        ahead = state.s + dynamics.FRONT * xp.cos(state.psi)
        index, along = self._locate(ahead, self.base, episode["spacing"])
        lines = self.xp.take_columns(self.view, index)[4:]
        front = (lines[0] + along * lines[1], lines[2] + along * lines[3])
        desire = tuple(episode[name] for name in ("desire", "desire_from", "desire_to"))
        traffic = (episode["left_hand_traffic"], episode["oncoming"])
        return judge(xp, state, self.place, front, self.stalled, desire, traffic)


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
