"""``TinyPhysics-v0``: the official simulator as a gymnasium task, batched and single."""

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from steerlab.envs.arguments import Setting, integer, time_limit
from steerlab.envs.batch import BatchEnv, Info, Rows, SingleEnv, after_reset
from steerlab.envs.layout import Layout
from steerlab.envs.tinyphysics.dynamics import STEER_LIMIT, STEPS, Simulator, noise_seeds
from steerlab.envs.tinyphysics.render import draw_rollout
from steerlab.envs.tinyphysics.reward import official_costs, step_costs
from steerlab.errors import InputError
from steerlab.surrogates.plants.base import CONTEXT, Plant
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.segments.data import CONTROL_START, PLAN_STEPS, Segments
from steerlab.surrogates.segments.synthetic import find_segments

OBSERVATION = Layout(
    target=1,  # m/s^2, of the step that the action decides
    lataccel=1,  # m/s^2, before that step
    roll_lataccel=1,  # m/s^2
    v_ego=1,  # m/s
    a_ego=1,  # m/s^2
    past_steer=CONTEXT,  # oldest first
    past_lataccel=CONTEXT,  # m/s^2, oldest first
    plan_lataccel=PLAN_STEPS,  # m/s^2, the next 49 steps
    plan_roll_lataccel=PLAN_STEPS,  # m/s^2
    plan_v_ego=PLAN_STEPS,  # m/s
    plan_a_ego=PLAN_STEPS,  # m/s^2
)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name}={value!r:.80} must be text")
    return value


class TinyPhysicsVectorEnv(BatchEnv):
    """Steer N cars along logged routes so that their lateral acceleration follows a target.

    One step is one control step of 0.1 s. ``reset`` runs the warm-up to step 100; the episode is
    truncated after the 400 steps that count. The sum of the rewards is minus the official
    ``total_cost``; ``info`` holds the three costs summed up so far, and the name of the segment.

    Action: steer in [-2, 2], positive to the right. Observation: see :data:`OBSERVATION`, whose
    slices are in the attribute ``layout``.

    Args:
        num_envs: Number of rows.
        plant: See :func:`~steerlab.surrogates.plants.load.load_plant`.
        segments: See :func:`~steerlab.surrogates.segments.synthetic.find_segments`.
        runtime: "exact", "fast" or "torch".
        seeds: "official" for the noise of comma's scripts, which is fixed for each route;
            "random" for fresh noise in every episode, which training should use; any other text
            salts the official seeds. May change, from the next episodes on.
        num_segments: Use the first so many segments; 0 uses all.
        device: Device of the torch runtime.
        autoreset_mode: See gymnasium.
        render_mode: "rgb_array" or None.
        max_episode_steps: Steps of an episode, at most the 400 that count; a shorter one pays its
            part of the cost.

    Options of ``reset``: ``segment``, a route name such as "00042", or a list of one a row.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    layout = OBSERVATION
    reset_options = ("segment",)
    seeds = Setting(_text)

    def __init__(
        self,
        num_envs: int = 1,
        plant: str | Path | Plant = "default",
        segments: str | Path | Segments = "default",
        runtime: str = "exact",
        seeds: str = "official",
        num_segments: int = 0,
        device: str = "auto",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        self.single_observation_space = OBSERVATION.box()
        self.single_action_space = Box(-STEER_LIMIT, STEER_LIMIT, (1,), np.float32)
        limit = time_limit(max_episode_steps, STEPS, high=STEPS)
        super().__init__(num_envs, autoreset_mode, render_mode, limit)
        num_envs = self.num_envs
        self.seeds = seeds
        self.segments = find_segments(segments, integer("num_segments", num_segments, 0))
        self.simulator = Simulator(load_plant(plant, runtime, device), self.segments, num_envs)
        self._names = np.array(self.segments.names, dtype=object)
        self._costs = np.zeros((num_envs, 3))

    def _reset(self, rows: Rows, options: dict[str, Any]) -> None:
        chosen = self.row_indices(rows)
        asked = options.get("segment")
        if asked is None:
            segment = np.array([self.row_rng[i].integers(len(self.segments)) for i in chosen])
        else:
            names = [asked] * self.num_envs if isinstance(asked, str) else list(asked)
            if len(names) != self.num_envs:
                raise InputError(
                    f"options['segment'] names {len(names)} segments for {self.num_envs} rows"
                )
            segment = np.array([self.segments.index(names[i]) for i in chosen])
        if self.seeds == "random":
            seeds = [int(self.row_rng[i].integers(2**32)) for i in chosen]
        else:
            seeds = noise_seeds(list(self._names[segment]), self.seeds)
        self.simulator.reset(chosen, segment, seeds)
        self._costs[chosen] = 0.0

    def _step(
        self, rows: Rows, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        simulator = self.simulator
        time, before = simulator.time[rows].copy(), simulator.current(rows)
        target, _ = simulator.road(time, rows)
        simulator.advance(actions[:, 0].astype(np.float64), rows)
        costs = step_costs(target, simulator.current(rows), before, time == CONTROL_START)
        self._costs[rows] += np.stack(costs, axis=1)
        terminated, truncated = np.zeros((2, len(time)), dtype=bool)  # the time limit does it
        return -costs.total_cost, terminated, truncated

    def _observe(self, rows: Rows) -> NDArray[np.float32]:
        simulator = self.simulator
        time, index = simulator.time[rows], self.row_indices(rows)
        target, state = simulator.road(time, rows)
        past = time[:, None] + np.arange(-CONTEXT, 0)
        observation = np.empty((len(index), OBSERVATION.size), dtype=np.float32)
        parts = OBSERVATION.split(observation)
        parts["target"][:, 0], parts["lataccel"][:, 0] = target, simulator.current(rows)
        parts["past_steer"][:] = simulator.steer[index[:, None], past]
        parts["past_lataccel"][:] = simulator.lataccel[index[:, None], past]
        for name, values in state._asdict().items():
            parts[name][:, 0] = values
        for name, values in simulator.plan(time, rows)._asdict().items():
            parts[f"plan_{name}"][:] = values
        return observation

    def _info(self, rows: Rows) -> Info:
        lataccel_cost, jerk_cost, total_cost = self._costs[rows].T.copy()
        return {
            "segment": self._names[self.simulator.segment[rows]],
            "lataccel_cost": lataccel_cost,
            "jerk_cost": jerk_cost,
            "total_cost": total_cost,
        }

    @after_reset
    def official_costs(self, row: int = 0) -> dict[str, float]:
        """Return the costs of a finished episode with the rounding of the official script."""
        rows = slice(row, row + 1)
        costs = official_costs(self.simulator.targets(rows), self.simulator.lataccel[rows])
        return {name: float(value[0]) for name, value in costs._asdict().items()}

    @after_reset
    def render_row(self, row: int) -> NDArray[np.uint8]:
        """Return a picture (H, W, 3) of target, response, action and roll up to now."""
        simulator = self.simulator
        end, rows = int(simulator.time[row]), slice(row, row + 1)
        roll = [float(simulator.road(t, rows)[1].roll_lataccel[0]) for t in range(end)]
        return draw_rollout(
            str(self._names[simulator.segment[row]]),
            simulator.targets(rows)[0],
            simulator.lataccel[row, :end],
            simulator.steer[row, :end],
            np.array(roll),
        )


class TinyPhysicsEnv(SingleEnv):
    """One car; takes the arguments of :class:`TinyPhysicsVectorEnv` but ``num_envs``."""

    batch_type = TinyPhysicsVectorEnv
    batch: TinyPhysicsVectorEnv
    layout = OBSERVATION
    reset_options = ("segment",)
    seeds = Setting(_text)

    def official_costs(self) -> dict[str, float]:
        """Return the costs of the finished episode with the rounding of the official script."""
        return self.batch.official_costs(0)
