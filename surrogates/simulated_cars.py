"""Drives of cars that do not exist: what the bundled default plant is trained on.

A bicycle with saturating tyres is steered by an electric power steering that has dead time, lag,
friction and limits. Each drive draws its own car, road and driver, so a plant trained on many of
them learns what cars have in common and reads the rest from its 20 steps of history. No log and no
other model enters.

Equations: R. Rajamani, Vehicle Dynamics and Control, 2nd edition, section 2.3 (lateral bicycle on a
banked road); the tyre's saturation is a hyperbolic tangent of the slip. The steering is quasi-static:
assistance, self-aligning force and friction balance against damping, all expressed as the lateral
acceleration that the front axle makes of them. In this form a car's steady state is what openpilot
calls its torque response: ``lataccel = gain * steer + g sin(roll)``, less friction.
"""

from dataclasses import dataclass, fields

import numpy as np

from steerlab.surrogates.plants.tokens import LIMIT, encode
from steerlab.surrogates.segments.data import COST_END, DT, GRAVITY, Segments
from steerlab.surrogates.segments.synthetic import synthetic_segments
from steerlab.surrogates.training.dataset import Sequences
from steerlab.types import Floats

STEER_LIMIT = 2.0
_SUBSTEPS = 10
_GRIP = 4.8  # m/s^2, lateral acceleration of a car that has lost it
_SETTLE = 30  # steps driven before those that are kept


@dataclass(frozen=True)
class Cars:
    """N cars; every field is an array (N,)."""

    mass: Floats  # kg
    wheelbase: Floats  # m
    front: Floats  # share of the wheelbase between front axle and center of mass
    inertia: Floats  # yaw inertia over m * a * b
    front_stiffness: Floats  # tyre force per slip angle over axle load, 1/rad
    rear_stiffness: Floats  # the same behind; larger than in front, which makes a car understeer
    friction: Floats  # largest tyre force over load
    gain: Floats  # lateral acceleration per unit of steer at 20 m/s, m/s^2
    gain_speed: Floats  # speed at which the assistance has half of its gain, m/s
    limit: Floats  # largest steer that the assistance follows
    dead_time: Floats  # s
    lag: Floats  # of the assistance, s
    response: Floats  # of the steered wheels at 20 m/s, s
    rack_friction: Floats  # m/s^2
    disturbance: Floats  # of wind and road, standard deviation in m/s^2
    disturbance_time: Floats  # s over which it changes
    sensor_noise: Floats  # m/s^2

    def __len__(self) -> int:
        return len(self.mass)


#: Range of each parameter; drawn evenly, or evenly in the logarithm where marked.
RANGES: dict[str, tuple[float, float, bool]] = {
    "mass": (1250.0, 2400.0, False),
    "wheelbase": (2.55, 3.1, False),
    "front": (0.4, 0.52, False),
    "inertia": (0.9, 1.15, False),
    "front_stiffness": (15.0, 22.0, False),
    "rear_stiffness": (1.15, 1.5, False),  # times that in front
    "friction": (0.8, 1.05, False),
    "gain": (1.1, 1.7, True),
    "gain_speed": (0.1, 1.0, False),
    "limit": (1.4, 2.2, False),
    "dead_time": (0.04, 0.14, False),
    "lag": (0.03, 0.1, True),
    "response": (0.15, 0.4, True),
    "rack_friction": (0.02, 0.15, True),
    "disturbance": (0.02, 0.12, True),
    "disturbance_time": (0.3, 1.5, True),
    "sensor_noise": (0.01, 0.04, True),
}


def draw_cars(rng: np.random.Generator, count: int) -> Cars:
    """Return ``count`` cars drawn from :data:`RANGES`."""
    values = {}
    for field in fields(Cars):
        low, high, logarithmic = RANGES[field.name]
        if logarithmic:
            values[field.name] = np.exp(rng.uniform(np.log(low), np.log(high), count))
        else:
            values[field.name] = rng.uniform(low, high, count)
    values["rear_stiffness"] *= values["front_stiffness"]
    return Cars(**values)


@dataclass
class Motion:
    """State of N cars; every field is an array (N,)."""

    assistance: Floats  # lateral acceleration that the steering motor asks of the front axle
    wheel: Floats  # angle of the front wheels, rad
    sideslip: Floats  # lateral velocity of the center of mass, m/s
    yaw_rate: Floats  # rad/s
    disturbance: Floats  # m/s^2

    @classmethod
    def rest(cls, count: int) -> "Motion":
        """Return cars that drive straight on."""
        return cls(*(np.zeros(count) for _ in fields(cls)))


def advance(
    cars: Cars,
    motion: Motion,
    steer: tuple[Floats, Floats],
    speed: Floats,
    roll_lataccel: Floats,
    noise: Floats,
) -> Motion:
    """Return the motion 0.1 s later.

    Args:
        cars: The cars.
        motion: Their state.
        steer: The last command but one and the last one (N,), positive to the right; which of them
            the motor sees depends on the dead time.
        speed: (N,) m/s.
        roll_lataccel: (N,) lateral acceleration by the road's roll, m/s^2.
        noise: (10, N) standard normal numbers that drive the disturbance.
    """
    dt = DT / _SUBSTEPS
    # Below 3 m/s the bicycle's slip angles are ill-defined: drive its geometry there.
    rolling = np.maximum(speed, 3.0)
    ahead = cars.front * cars.wheelbase
    behind = cars.wheelbase - ahead
    gain = 2 * cars.gain * speed / (speed + cars.gain_speed)
    assistance, wheel = motion.assistance, motion.wheel
    sideslip, yaw_rate, push = motion.sideslip, motion.yaw_rate, motion.disturbance
    fade = np.exp(-dt / cars.disturbance_time)
    kick = cars.disturbance * np.sqrt(1 - fade**2)
    spring, damping = _steering(cars, speed)
    old, new = (np.clip(s, -cars.limit, cars.limit) for s in steer)
    for step in range(_SUBSTEPS):
        command = np.where(step * dt < cars.dead_time % DT, old, new)
        assistance = assistance + dt / cars.lag * (gain * command - assistance)
        front_slip = wheel - (sideslip + ahead * yaw_rate) / rolling
        rear_slip = -(sideslip - behind * yaw_rate) / rolling
        front, rear = _axle_forces(cars, front_slip, rear_slip)
        push = fade * push + kick * noise[step]
        aligning = front / (1 - cars.front) + spring * wheel
        balance = assistance - aligning
        free = np.sign(balance) * np.maximum(np.abs(balance) - cars.rack_friction, 0.0)
        wheel = np.clip(wheel + dt / damping * free, -0.6, 0.6)
        side = front + rear + roll_lataccel + push
        sideslip = sideslip + dt * (side - rolling * yaw_rate)
        turn = (ahead * front - behind * rear) / (cars.inertia * ahead * behind)
        yaw_rate = yaw_rate + dt * turn
    slow = speed < 3.0
    geometric = np.maximum(speed, 0.0) * np.tan(wheel) / cars.wheelbase
    return Motion(
        assistance,
        wheel,
        np.where(slow, 0.0, sideslip),
        np.where(slow, geometric, yaw_rate),
        push,
    )


def _steering(cars: Cars, speed: Floats) -> tuple[Floats, Floats]:
    """Return spring and damping that the steering motor works against."""
    # Lateral acceleration per angle of the wheels, at 20 m/s.
    firm = 400.0 / (cars.wheelbase * (1 + 400.0 * 0.002))
    # Half of what the motor works against at 20 m/s is the steering itself (its geometry and the
    # return action of its controller), half the road. So a car answers less at low speed, where a
    # larger angle is needed, and the wheels are not left to swing with the yaw motion.
    return firm, cars.response * firm * np.clip(speed / 20.0, 0.15, 1.5)


def _axle_forces(cars: Cars, front_slip: Floats, rear_slip: Floats) -> tuple[Floats, Floats]:
    """Return the lateral forces of both axles per unit of the car's mass, m/s^2."""
    front = _tyre(cars.front_stiffness, cars.friction, front_slip) * (GRAVITY * (1 - cars.front))
    rear = _tyre(cars.rear_stiffness, cars.friction, rear_slip) * (GRAVITY * cars.front)
    return front, rear


def _tyre(stiffness: Floats, friction: Floats, slip: Floats) -> Floats:
    """Return the lateral force over the load of a tyre."""
    return friction * np.tanh(stiffness * slip / friction)


class Driver:
    """N drivers: some follow the road well, some badly, some just turn the wheel about.

    Most steer like openpilot's torque controller, from the road ahead and the error, with gains
    that may be well off; one in six ignores the road. All of them are noisy.
    """

    def __init__(self, rng: np.random.Generator, cars: Cars) -> None:
        count = len(cars)
        self.rng = rng
        self.feedforward = rng.uniform(0.0, 1.2, count) / cars.gain
        self.look = rng.integers(0, 5, count)
        self.p = rng.uniform(0.0, 0.25, count)
        self.i = rng.uniform(0.0, 0.1, count)
        self.d = rng.uniform(-0.1, 0.1, count)
        self.blind = rng.random(count) < 1 / 6
        self.noise = np.exp(rng.uniform(np.log(0.005), np.log(0.2), count))
        self.memory = rng.uniform(0.0, 0.97, count)
        self.wander = np.exp(rng.uniform(np.log(0.2), np.log(1.2), count))
        self._sum, self._error, self._drift = np.zeros((3, count))
        self._slow = np.zeros(count)

    def steer(self, step: int, target: Floats, lataccel: Floats, roll: Floats) -> Floats:
        """Return the steer (N,) at ``step``, given targets (N, T) and the state (N,)."""
        rows = np.arange(len(self.p))
        ahead = target[rows, np.minimum(step + self.look, target.shape[1] - 1)]
        error = target[:, step] - lataccel
        self._sum = np.clip(0.995 * self._sum + error, -20.0, 20.0)
        change, self._error = error - self._error, error
        share = np.sqrt(1 - self.memory**2)
        self._drift = self.memory * self._drift + share * self.noise * self.rng.standard_normal(
            len(rows)
        )
        self._slow = 0.98 * self._slow + 0.2 * self.wander * self.rng.standard_normal(len(rows))
        seen = self.feedforward * (ahead - roll) + self.p * error + self.i * self._sum
        wanted = np.where(self.blind, self._slow, seen + self.d * change)
        return np.clip(wanted + self._drift, -STEER_LIMIT, STEER_LIMIT)


def synthetic_drives(count: int, seed: int = 0) -> Sequences:
    """Return up to ``count`` drives of 50 s, each with its own car, road and driver.

    Those in which the car loses its grip are left out.
    """
    roads_seed, draw_seed = np.random.SeedSequence(seed).spawn(2)
    rng = np.random.default_rng(draw_seed)
    roads = _vary(synthetic_segments(count, int(roads_seed.generate_state(1)[0])), rng)
    cars = draw_cars(rng, count)
    steer, lataccel = simulate(cars, roads, Driver(rng, cars), rng)
    states = np.stack(
        [steer, *(r[:, :COST_END] for r in (roads.roll_lataccel, roads.v_ego, roads.a_ego))],
        axis=-1,
    )
    # A rash driver can make a car swing or spin; nobody logs that for a minute.
    steady = np.abs(lataccel).max(axis=1) < _GRIP
    return Sequences(
        states[steady].astype(np.float32),
        encode(lataccel[steady]).astype(np.int16),
        np.full(int(steady.sum()), COST_END),
        tuple(f"drive {seed}/{i}" for i in np.flatnonzero(steady)),
    )


def simulate(
    cars: Cars, roads: Segments, driver: Driver, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Drive car i along road i; return steer and measured lateral acceleration (N, 500)."""
    count = len(cars)
    motion = Motion.rest(count)
    steer, lataccel = np.zeros((2, count, _SETTLE + COST_END))
    seen = np.zeros(count)
    delay = (cars.dead_time / DT).astype(int)  # whole steps of the dead time
    rows = np.arange(count)
    for time in range(_SETTLE + COST_END):
        step = max(time - _SETTLE, 0)  # wait at the first row until the car has settled
        roll = roads.roll_lataccel[:, step]
        steer[:, time] = driver.steer(step, roads.target, seen, roll)
        late = np.maximum(time - delay, 0)
        commands = steer[rows, np.maximum(late - 1, 0)], steer[rows, late]
        noise = rng.standard_normal((_SUBSTEPS, count))
        motion = advance(cars, motion, commands, roads.v_ego[:, step], roll, noise)
        true = motion.yaw_rate * roads.v_ego[:, step]
        seen = np.clip(true + cars.sensor_noise * rng.standard_normal(count), -LIMIT, LIMIT)
        lataccel[:, time] = seen
    return steer[:, _SETTLE:], lataccel[:, _SETTLE:]


def _vary(roads: Segments, rng: np.random.Generator) -> Segments:
    """Return the roads with more of what is rare: slow traffic, stops, sharp curves, banks."""
    count = len(roads)
    slow = rng.random(count) < 0.3
    pace = np.where(slow, rng.uniform(0.02, 0.6, count), 1.0)[:, None]
    sharp = np.exp(rng.uniform(np.log(0.5), np.log(3.0), count))[:, None]
    v_ego = roads.v_ego * pace
    reachable = 0.15 * v_ego**2  # a curve of 7 m radius
    bank = rng.normal(0.0, 0.3, count)[:, None]
    return Segments(
        roads.names,
        roads.rows,
        np.clip(roads.target * sharp, -reachable, reachable).clip(-4.5, 4.5),
        roads.roll_lataccel * rng.uniform(0.5, 2.0, count)[:, None] + bank,
        v_ego,
        roads.a_ego * pace,
        roads.steer,
    )
