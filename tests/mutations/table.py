"""One-line faults, each with the tests that have to fail for it."""

from typing import NamedTuple


class Mutation(NamedTuple):
    """A text that occurs once in a file, what stands there instead, and the tests that notice."""

    file: str
    old: str
    new: str
    tests: str  # paths, separated by spaces


def _all(file: str, tests: str, *edits: tuple[str, str]) -> list[Mutation]:
    return [Mutation(file, old, new, tests) for old, new in edits]


MUTATIONS = [
    *_all(
        "envs/tinyphysics/reward.py", "tests/envs/tinyphysics/test_reward.py tests/envs/tinyphysics/test_golden.py",
        ("LATACCEL_WEIGHT = 50.0", "LATACCEL_WEIGHT = 5.0"),
        ("np.mean((wanted - driven) ** 2) * 100", "np.mean(np.abs(wanted - driven)) * 100"),
        ("np.mean((np.diff(driven) / DT) ** 2) * 100", "np.mean(np.diff(driven) ** 2) * 100"),
        ("np.where(first, 0.0, 100", "np.where(~first, 0.0, 100"),
        ("100 / (STEPS - 1)", "100 / STEPS"),
    ),
    *_all(
        "envs/inverted_pendulum/dynamics.py", "tests/envs/inverted_pendulum",
        ("gravity: Any = 9.81", "gravity: Any = 9.91"),
        ("gear: Any = 100.0", "gear: Any = 101.0"),
        ("hinge_damping: Any = 1.0", "hinge_damping: Any = 0.9"),
        ("gear=self.gear * gear)", "gear=self.gear)"),
        ("self.pole_density * pole_mass * self.pole_mass", "self.pole_density * self.pole_mass"),
    ),
    *_all(
        "envs/tracking/double_integrator.py", "tests/envs/tracking",
        ("after = velocity + push * dt", "after = velocity - push * dt"),
        ('if integrator == "exact" else after', 'if integrator != "exact" else after'),
    ),
    *_all(
        "envs/tracking/problem.py", "tests/envs/tracking",
        ("self.input_weight * controls[..., 0] ** 2", "controls[..., 0] ** 2"),
        ("self.terminal_factor * deviation[:, -1:]", "deviation[:, -1:]"),
        ("v * error[..., 1] ** 2", "q * error[..., 1] ** 2"),
        ("return self.horizon / self.steps", "return self.horizon / (self.steps + 1)"),
        ("np.linalg.norm(states[:, -1] - targets", "np.linalg.norm(states[:, 0] - targets"),
    ),
    *_all(
        "envs/wrappers/cvar.py", "tests/envs/wrappers/test_cvar.py",
        ("left = (self.left - rewards) / self.discount", "left = (self.left - rewards)"),
        ("- self.discount * np.maximum(left, 0.0)", "- np.maximum(left, 0.0)"),
        ("self.weight *= self.discount", "self.weight *= 1.0"),
        ("self.threshold = self._quantile(self.alpha)", "self.threshold = self._quantile(0.5)"),
        ("self.alpha = 1.0 - (1.0 - self.target) * done", "self.alpha = self.target"),
    ),
    *_all(
        "envs/kinematic_driver/dynamics.py", "tests/envs/kinematic_driver/test_dynamics.py",
        ("rate = MAX_LATERAL_JERK * DT / square", "rate = MAX_LATERAL_JERK / square"),
        ("low = (roll - MAX_LATERAL_ACCELERATION) / square", "low = -MAX_LATERAL_ACCELERATION / square"),
        ("return 1 - xp.exp(-DT / xp.maximum(time, 1e-3))", "return 1 - xp.exp(-DT * time)"),
        ("target = a_smooth / vehicle.mass", "target = a_smooth"),
        ("target < state.a, vehicle.brake_lag, vehicle.drive_lag", "target > state.a, vehicle.brake_lag, vehicle.drive_lag"),
        ("side = xp.sqrt(grip * grip - a * a)", "side = grip"),
        ("k_delayed - state.k_actuator", "k_command - state.k_actuator"),
    ),
    *_all(
        "envs/kinematic_driver/reward.py", "tests/envs/kinematic_driver/test_reward.py",
        ("(1 - weights.comfort * discomfort)", "(1 + weights.comfort * discomfort)"),
        ("weights.centring * off_centre)", "weights.comfort * off_centre)"),
        ("return weights.discount * after - before", "return after - before"),
        ("xp.maximum(1 - away, 0.0)", "(1 - away)"),
    ),
    *_all(
        "envs/kinematic_driver/record.py", "tests/envs/kinematic_driver/test_record.py",
        ("counted = np.where(lost, np.inf, values)[steps]", "counted = np.where(lost, 0.0, values)[steps]"),
        ("cte_p95=record.percentile(record.offset, 95),", "cte_p95=record.percentile(record.offset, 50),"),
        ("offset + FRONT * np.sin(heading)", "offset - FRONT * np.sin(heading)"),
        ("START_SECONDS = 2.0", "START_SECONDS = 1.0"),
    ),
    *_all(
        "agents/policynet/evaluate.py", "tests/agents/policynet/test_figures.py tests/agents/policynet/test_evaluate.py",
        ("heading_p95=record.percentile(record.heading, 95)", "heading_p95=record.percentile(record.heading, 50)"),
        ("return_cvar=cvar(returns, 0.05)", "return_cvar=-cvar(-returns, 0.05)"),
        ("violations=int((violation > 0).sum())", "violations=int((violation > 1).sum())"),
    ),
    *_all(
        "steerlab/openpilot/contracts.json", "tests/openpilot/test_contracts.py",
        ('"roll",\n   "pitch",\n   "yaw",', '"yaw",\n   "pitch",\n   "roll",'),
    ),
    *_all(
        "steerlab/openpilot/commands.py", "tests/openpilot/test_commands.py",
        ("return 2.0 * yaw / (v * t)", "return yaw / (v * t)"),
        ("/ t - plan[..., 0, _ACCELERATION]", "/ t"),
        ("(acceleration < rule.stop", "(acceleration > rule.stop"),
        ("np.where(moves, curvature, last.curvature)", "curvature"),
        ("alpha * new + (1.0 - alpha) * last", "alpha * last + (1.0 - alpha) * new"),
        ("later = at_time(speed, at + 1.0)", "later = at_time(speed, at)"),
    ),
    *_all(
        "agents/supervised.py", "tests/agents/test_supervised.py tests/agents/test_training_effects.py tests/agents/test_training_schedule.py",
        ("return bool(patience) and epoch - self.best_epoch > patience", "return False"),
        ("best=learner.kept if better else None", "best=model if better else None"),
        ("weight_decay=config.weight_decay, fused", "weight_decay=0.0, fused"),
        ("manual_seed(_mix(config.seed, epoch, 0))", "manual_seed(_mix(0, epoch, 0))"),
        ("manual_seed(_mix(config.seed, epoch, 1))", "manual_seed(_mix(config.seed, 0, 1))"),
        ("learner.schedule.batch_done()", "pass"),
    ),
    *_all(
        "agents/training_loop.py", "tests/agents/test_supervised.py tests/agents/test_training_effects.py tests/agents/test_training_schedule.py",
        ('self.first = state["step"] + 1', 'self.first = state["step"]'),
        ("part.load_state_dict(state[name])", "pass"),
    ),
    *_all(
        "steerlab/seeds.py", "tests/test_seeds.py",
        ("(place << _SEED_BITS | seed) << _EPISODE_BITS | first", "(place << _SEED_BITS | seed) << _EPISODE_BITS"),
        ("first + count > BLOCK", "first > BLOCK"),
        ("np.random.SeedSequence(seed, spawn_key", "np.random.SeedSequence(0, spawn_key"),
    ),
    *_all(
        "agents/classical/lqr.py", "tests/agents/classical/test_lqr.py",
        ("values[steps] = terminal", "values[steps] = Q"),
        ("@ (A[k] - B[k] @ gains[k])", "@ A[k]"),
    ),
]  # fmt: skip
