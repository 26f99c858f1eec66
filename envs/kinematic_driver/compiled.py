"""The simulator's loops over rows, compiled by numba from the functions that numpy and torch use.

:mod:`dynamics`, :mod:`reward`, :mod:`observation`, :mod:`roads` and :mod:`violations` work on arrays
and, compiled, on the numbers of one row. So the car, the reward and the rules are written once. Here
is only what goes round them, a row's lookups and buffers, as :class:`~simulator.Simulator` has it.
"""

import hashlib
from collections import namedtuple
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from steerlab.compiled import compiled as compile_with
from steerlab.envs.kinematic_driver import dynamics, roads, scalar_backend as xp
from steerlab.envs.kinematic_driver.dynamics import State, Vehicle
from steerlab.envs.kinematic_driver.episodes import EPISODE
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY
from steerlab.envs.kinematic_driver.observation import (
    LAYOUT,
    POINTS,
    X_IDXS,
    blindness,
    blur,
    camera,
    seen_lines,
)
from steerlab.envs.kinematic_driver.reward import Reward, base_reward, potential, shaping
from steerlab.envs.kinematic_driver.roads import Place
from steerlab.envs.kinematic_driver.scalar_backend import inlined
from steerlab.envs.kinematic_driver.simulator import (
    DELAY_STEPS,
    NOISE_ROWS,
    POSE_STEPS,
    SUMS,
    Outcome,
    Simulator,
)
from steerlab.envs.kinematic_driver.threads import share
from steerlab.envs.kinematic_driver.violations import judge, stalled
from steerlab.types import AnyArray

for _function in (
    dynamics.advance,
    dynamics.clip_curvature,
    dynamics.corners,
    dynamics.curvature_scale,
    dynamics.decode,
    dynamics.lag,
    dynamics.shape_commands,
    dynamics.spread,
    dynamics.squared_jerk,
    roads.locate,
    roads.place,
    base_reward,
    blindness,
    blur,
    camera,
    judge,
    potential,
    seen_lines,
    shaping,
    stalled,
):
    inlined(_function)

#: The rows of a table of episodes by name: ``table[AT.friction, i]``.
AT: Any = namedtuple("AT", EPISODE)(*range(len(EPISODE)))
Weights: Any = namedtuple("Weights", tuple(Reward.__dataclass_fields__))  # type: ignore[misc]


class Memory(NamedTuple):
    """The arrays of a :class:`CompiledSimulator`, which a step changes in place."""

    road: AnyArray  # Simulator.view; numba reserves that name
    plan: AnyArray
    noise: AnyArray
    basis: AnyArray
    base: AnyArray
    table: AnyArray
    state: AnyArray  # (10, N), the fields of State
    place: AnyArray  # (5, N), the fields of Place
    sums: AnyArray  # (5, N)
    seen: AnyArray  # (3, N)
    time: AnyArray
    action: AnyArray
    commands: AnyArray
    delay: tuple[AnyArray, AnyArray]
    poses: AnyArray
    latency: tuple[AnyArray, AnyArray]
    errors: AnyArray
    seen_errors: AnyArray
    blind: AnyArray
    sensors: AnyArray
    stalled: AnyArray
    violation: AnyArray
    jerk: AnyArray
    potential: AnyArray
    history: AnyArray


class CompiledSimulator(Simulator):
    """A :class:`Simulator` on numpy whose loops over rows are compiled.

    Args:
        rows: Number of rows.
        slots: Number of roads that the tables hold.
        max_steps: Length of an episode in steps.
        weights: Weights of the reward.
        threads: Threads that share the rows.
        knots: As for :class:`Simulator`.
    """

    chunk = 1 << 62
    derived = (*Simulator.derived, "loops", "numbers", "state", "place", "sums", "seen", "memory")

    def __init__(
        self,
        rows: int,
        slots: int,
        max_steps: int,
        weights: Reward,
        threads: int,
        knots: int | None = None,
    ) -> None:
        self.threads = threads
        super().__init__(rows, slots, max_steps, weights, NUMPY, knots)

    def _derive(self) -> None:
        super()._derive()
        self.loops = loops(sources())
        self.numbers = Weights(*(float(value) for value in vars(self.weights).values()))
        if "blocks" not in vars(self):  # numba wants one array for all the fields of a state
            self.blocks = {
                part: np.zeros((len(getattr(self, part)), self.rows), np.float32)
                for part in ("state", "place", "sums", "seen")
            }
        blocks = self.blocks
        self.state, self.place = State(*blocks["state"]), Place(*blocks["place"])
        self.sums, self.seen = dict(zip(SUMS, blocks["sums"], strict=True)), list(blocks["seen"])
        own = {"road": self.view, **blocks}
        self.memory = Memory(
            *(own[part] if part in own else getattr(self, part) for part in Memory._fields)
        )

    def start(self, rows: AnyArray, slots: AnyArray, table: AnyArray) -> None:
        """Begin an episode in ``rows`` (n,): on the roads of ``slots``, with the values ``table``."""
        self.loops.start(
            rows, slots, np.ascontiguousarray(table), self.memory, self.numbers, self.knots
        )

    def offset_percentiles(self, rows: AnyArray) -> list[AnyArray]:
        """Return the median and the 95th percentile of the absolute offset (m), each (n,)."""
        shares = np.array([0.5, 0.95], np.float32)
        return list(
            self.loops.percentiles(
                rows, self.clock, self.max_steps, self.time, self.history, shares
            )
        )

    def step(self, actions: AnyArray) -> Outcome:
        """Advance all rows; ``actions`` (N, 2) are float32 and finite."""
        self.clock += 1
        out = Outcome(
            np.empty(self.rows, np.float32),
            np.empty(self.rows, np.float32),
            np.empty(self.rows, np.bool_),
            np.empty(self.rows, np.bool_),
        )
        arguments = (
            self.memory, self.numbers, self.clock, self.knots, self.max_steps, self.error_keep,
            np.ascontiguousarray(actions),
            (out.reward, out.base, out.terminated, out.truncated),
        )  # fmt: skip
        share(self.loops.step, self.rows, self.threads, arguments)
        return out

    def observe(self, rows: Any, out: AnyArray) -> None:
        """Write the observations of ``rows`` (a slice or indices) to ``out`` (n, LAYOUT.size)."""
        indices = self.columns[rows]
        share(self.loops.observe, len(out), self.threads, (self.memory, self.knots, indices, out))


@cache
def sources() -> int:
    """Return a number that changes when a file does that the loops are compiled from.

    numba's cache on disk looks at the file of a loop only, but it distinguishes what a loop closes over.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:7], "big")


@cache
def loops(version: int) -> SimpleNamespace:  # noqa: C901 - what numba compiles shares one closure
    """Return the loops; numba compiles each of them at its first call."""
    compiled = compile_with(nogil=True, error_model="numpy")
    n, head = POINTS, LAYOUT["path_offset"].start
    ahead = X_IDXS.astype(np.float32)

    @compiled
    def step(begin, end, m, weights, clock, knots, max_steps, keep, actions, results):  # type: ignore[no-untyped-def]
        assert version
        # Taken out of the tuple once: inside the loop, every access would count references.
        road, plan, noises, base, table, states, places = (
            m.road, m.plan, m.noise, m.base, m.table, m.state, m.place
        )  # fmt: skip
        action, time, blind, sensors = m.action, m.time, m.blind, m.sensors
        errors, seen_errors, seen, poses = m.errors, m.seen_errors, m.seen, m.poses
        stalls, violation, jerk, potentials = m.stalled, m.violation, m.jerk, m.potential
        commands, history, sums, delay, latency = m.commands, m.history, m.sums, m.delay, m.latency
        rewards, bases, terminated, truncated = results
        fresh = (1.0 - keep * keep) ** 0.5
        frame, scale = clock % POSE_STEPS, 100.0 / max_steps
        for i in range(begin, end):
            time[i] += 1
            steer, pedal = xp.clip(actions[i, 0], -1.0, 1.0), xp.clip(actions[i, 1], -1.0, 1.0)
            action[i, 0], action[i, 1] = steer, pedal
            old, car = state_of(states, i), vehicle_of(table, i)
            wanted = dynamics.decode(xp, steer, pedal, old.v)
            shaped = dynamics.shape_commands(xp, old, car, wanted[0], wanted[1])
            commands[clock % DELAY_STEPS, i] = shaped[2]
            delayed = past(commands, clock, delay[0][i], delay[1][i], i)
            here = (places[0, i], places[1, i])
            keep_state(states, i, dynamics.advance(xp, old, car, shaped, delayed, here))
            new = state_of(states, i)

            spacing = table[AT.spacing, i]
            whole, along = roads.locate(xp, new.s, spacing, knots)
            at = base[i] + int(whole)
            lines = (road[at, 4], road[at, 5], road[at, 6], road[at, 7])
            now = roads.place((plan[at, 0], plan[at, 1], plan[at, 2], plan[at, 3]), lines, along)
            keep_place(places, i, now)

            # Sensors and the last camera frame: latency, lost frames, errors of the lines.
            start, stride = int(table[AT.noise_start, i]), int(table[AT.noise_stride, i])
            noise = (start + stride * time[i]) % NOISE_ROWS
            measure(sensors, table, new, noises, noise, i)
            blind[i] = blindness(
                xp, blind[i], table[AT.dropout, i], noises[noise, 12], noises[noise, 13]
            )
            poses[0, frame, i], poses[1, frame, i], poses[2, frame, i] = new.s, new.d, new.psi
            for c in range(9):
                errors[i, c] = keep * errors[i, c] + fresh * noises[noise, c]
            if blind[i] <= 0:
                for c in range(9):
                    seen_errors[i, c] = errors[i, c]
                for part in range(3):
                    seen[part, i] = past(poses[part], clock, latency[0][i], latency[1][i], i)

            # What ends the episode.
            stalls[i] = stalled(xp, stalls[i], new.v)
            nose = new.s + dynamics.FRONT * xp.cos(new.psi)
            whole, along = roads.locate(xp, nose, spacing, knots)
            at = base[i] + int(whole)
            room = (road[at, 4] + along * road[at, 5], road[at, 6] + along * road[at, 7])
            desire = (table[AT.desire, i], table[AT.desire_from, i], table[AT.desire_to, i])
            traffic = (table[AT.left_hand_traffic, i], table[AT.oncoming, i])
            violation[i] = judge(xp, new, now, room, stalls[i], desire, traffic)
            over = violation[i] > 0
            terminated[i] = over
            truncated[i] = time[i] >= max_steps or (new.s >= table[AT.end, i] and not over)

            # What the step is worth.
            square, offset = dynamics.squared_jerk(old, new), xp.abs(new.d)
            jerk[i] = xp.sqrt(square)
            history[clock % max_steps, i] = offset
            progress = (new.s - old.s) / (table[AT.cruise_speed, i] * dynamics.DT)
            worth = scale * base_reward(xp, weights, progress, jerk[i], offset)
            bases[i] = rewards[i] = worth
            if weights.shaping > 0:
                after = potential(xp, weights, offset, new.psi)
                rewards[i] = worth + shaping(weights, potentials[i], 0.0 if over else after)
                potentials[i] = after
            sums[0, i] += square
            sums[1, i] += xp.abs(new.psi)
            sums[2, i] += scale * xp.clip(progress, 0.0, 1.0)
            sums[3, i] = xp.maximum(sums[3, i], offset)
            sums[4, i] += worth

    @compiled
    def observe(begin, end, m, knots, rows, out):  # type: ignore[no-untyped-def]
        assert version
        road, table, base, basis, sensors = m.road, m.table, m.base, m.basis.ravel(), m.sensors
        states, action, seen, errors = m.state, m.action, m.seen, m.seen_errors
        work = np.empty(15 * n, np.float32)
        for j in range(begin, end):
            i, o = rows[j], out[j]
            for c in range(3):
                o[c] = sensors[i, c]
            o[3], o[4] = action[i, 0], action[i, 1]
            delay = table[AT.lateral_delay, i] + table[AT.smoothing, i] + table[AT.delay_error, i]
            o[5], o[6] = xp.maximum(delay, 0.0), table[AT.cruise_speed, i]
            for c in range(7, head):
                o[c] = 0.0
            s = states[0, i]
            wanted = table[AT.desire_from, i] <= s <= table[AT.desire_to, i]
            o[7 + (int(table[AT.desire, i]) if wanted else 0)] = 1.0
            o[15 + int(table[AT.left_hand_traffic, i])] = 1.0

            spacing = table[AT.spacing, i]
            whole, along_knot = roads.locate(xp, seen[0, i], spacing, knots)
            first, row = np.float32(along_knot), base[i] + int(whole)
            knot = (road[row, 0], road[row, 1], road[row, 2], road[row, 3])
            x, y, heading = camera(xp, knot, first, seen[1, i], seen[2, i])
            pose = (np.float32(x), np.float32(y), np.float32(heading))
            for p in range(n):
                place = (ahead[p] + first) / spacing
                whole = xp.floor(place)
                work[8 * n + p] = (place - whole) * spacing
                at = row + int(whole)
                for c in range(8):
                    work[n * c + p] = road[at, c]
            for p in range(n):
                seen_knot = (
                    work[p], work[n + p], work[2 * n + p], work[3 * n + p],
                    work[4 * n + p], work[5 * n + p], work[6 * n + p], work[7 * n + p],
                )  # fmt: skip
                lines = seen_lines(xp, pose, work[8 * n + p], seen_knot)
                work[9 * n + p], work[10 * n + p] = lines[0], lines[1]
                work[11 * n + p], work[12 * n + p] = lines[2], lines[3]
                work[13 * n + p], work[14 * n + p] = lines[4], lines[5]

            # Errors of the lines, the same basis for each.
            gain = blur(xp, table[AT.geometry_noise, i], table[AT.brightness, i])
            for line in range(3):
                e0 = np.float32(gain * errors[i, 3 * line])
                e1 = np.float32(gain * errors[i, 3 * line + 1])
                e2 = np.float32(gain * errors[i, 3 * line + 2])
                begun = 2 * n * line
                for p in range(2 * n):
                    error = e0 * basis[p] + e1 * basis[6 * n + p] + e2 * basis[12 * n + p]
                    o[head + begun + p] = work[9 * n + begun + p] + error

    @compiled
    def start(rows, slots, drawn, m, weights, knots):  # type: ignore[no-untyped-def]
        assert version
        table, road, plan, noises = m.table, m.road, m.plan, m.noise
        for j in range(len(rows)):
            i = rows[j]
            m.base[i] = slots[j] * knots
            for c in range(len(drawn)):
                table[c, i] = drawn[c, j]
            s, d, psi = roads.START, table[AT.start_offset, i], table[AT.start_heading, i]
            whole, along = roads.locate(xp, s, table[AT.spacing, i], knots)
            at = m.base[i] + int(whole)
            lines = (road[at, 4], road[at, 5], road[at, 6], road[at, 7])
            now = roads.place((plan[at, 0], plan[at, 1], plan[at, 2], plan[at, 3]), lines, along)
            v, k = now.planned_speed * table[AT.start_speed, i], now.kappa
            # The car arrives steering with the road: commands still on their way hold the bend.
            keep_state(m.state, i, State(s, d, psi, v, 0.0, k, k, k, k, 0.0))
            keep_place(m.place, i, now)
            m.commands[:, i] = k
            m.poses[0, :, i], m.poses[1, :, i], m.poses[2, :, i] = s, d, psi
            m.seen[0, i], m.seen[1, i], m.seen[2, i] = s, d, psi
            keep_time(m.delay, i, table[AT.lateral_delay, i])
            keep_time(m.latency, i, table[AT.vision_latency, i])
            m.action[i, 0] = m.action[i, 1] = m.stalled[i] = m.blind[i] = m.jerk[i] = 0.0
            m.time[i] = m.violation[i] = 0
            m.sums[:, i] = 0.0
            noise = int(table[AT.noise_start, i]) % NOISE_ROWS
            for c in range(9):
                m.errors[i, c] = m.seen_errors[i, c] = noises[noise, c]
            measure(m.sensors, table, state_of(m.state, i), noises, noise, i)
            m.potential[i] = potential(xp, weights, d, psi)

    @compiled
    def percentiles(rows, clock, max_steps, time, history, shares):  # type: ignore[no-untyped-def]
        assert version
        found = np.empty((len(shares), len(rows)), np.float32)
        for j in range(len(rows)):
            i, count = rows[j], time[rows[j]]
            offsets = np.empty(count, np.float32)
            for t in range(count):
                offsets[t] = history[(clock - t) % max_steps, i]
            offsets.sort()
            for c in range(len(shares)):
                at = shares[c] * np.float32(count - 1)
                low = int(at)
                high = min(low + 1, count - 1)
                found[c, j] = offsets[low] + (at - low) * (offsets[high] - offsets[low])
        return found

    return SimpleNamespace(step=step, observe=observe, start=start, percentiles=percentiles)


@inlined
def past(ring: AnyArray, clock: int, whole: Any, fraction: Any, i: int) -> Any:
    """Return row i's value of ``ring`` (D, N) from some steps ago; see ``Simulator._past``."""
    later = ring[(clock - whole) % len(ring), i]
    return later + fraction * (ring[(clock - whole - 1) % len(ring), i] - later)


@inlined
def measure(
    sensors: AnyArray, table: AnyArray, car: State, noises: AnyArray, noise: int, i: int
) -> None:
    """Keep what row i's sensors measure of the state ``car``."""
    speed_noise = table[AT.speed_noise, i] * noises[noise, 9]
    sensors[i, 0] = car.v + table[AT.speed_bias, i] + speed_noise
    sensors[i, 1] = car.a + table[AT.acceleration_noise, i] * noises[noise, 10]
    curvature_noise = table[AT.curvature_noise, i] * noises[noise, 11]
    sensors[i, 2] = car.k + table[AT.curvature_bias, i] + curvature_noise


@inlined
def vehicle_of(table: AnyArray, i: int) -> Vehicle:
    """Return the parameters of row i."""
    return Vehicle(
        table[AT.lateral_delay, i], table[AT.actuator_lag, i], table[AT.smoothing, i],
        table[AT.friction, i], table[AT.mass, i], table[AT.drive_lag, i], table[AT.brake_lag, i],
        table[AT.superelevation, i],
    )  # fmt: skip


@inlined
def state_of(a: AnyArray, i: int) -> State:
    """Return the state of row i."""
    return State(
        a[0, i], a[1, i], a[2, i], a[3, i], a[4, i], a[5, i], a[6, i], a[7, i], a[8, i], a[9, i]
    )


@inlined
def keep_state(a: AnyArray, i: int, b: State) -> None:
    """Write the state of row i."""
    a[0, i], a[1, i], a[2, i], a[3, i], a[4, i] = b.s, b.d, b.psi, b.v, b.a
    a[5, i], a[6, i], a[7, i], a[8, i] = b.k, b.k_actuator, b.k_command, b.k_smooth
    a[9, i] = b.a_smooth


@inlined
def keep_place(a: AnyArray, i: int, b: Place) -> None:
    """Write the road where row i is."""
    a[0, i], a[1, i], a[2, i] = b.kappa, b.kappa_slope, b.planned_speed
    a[3, i], a[4, i] = b.left, b.right


@inlined
def keep_time(a: tuple[AnyArray, AnyArray], i: int, seconds: Any) -> None:
    """Write a time of row i as whole steps and the remaining fraction of one."""
    steps = seconds / np.float32(dynamics.DT)
    whole = xp.floor(steps)
    a[0][i], a[1][i] = int(whole), steps - whole
