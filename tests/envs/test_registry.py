"""What every registered task has to keep, in one loop over the registry."""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeAwareObservation, TimeLimit
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from steerlab.envs.batch import BatchEnv
from steerlab.envs.sb3 import make_sb3_vec
from steerlab.envs.tasks import TASKS, register
from steerlab.errors import InputError
from tests.envs.driving import actions_for, assert_same, plain, record

IDS = sorted(TASKS)

#: Advice on the scale of spaces (the tasks are in physical units, and some of those have no bounds),
#: and what a window says where there is no display.
ADVICE = (
    ".*render_mode='human' needs a display",
    ".*recommend (you to use|using) a symmetric and normalized",
    ".*A Box observation space m(in|ax)imum value is -?infinity",
)


def alone(name: str, **kwargs: Any) -> Any:
    return gym.make(name, **kwargs)


def native(name: str, count: int = 2, **kwargs: Any) -> Any:
    return gym.make_vec(name, count, vectorization_mode="vector_entry_point", **kwargs)


def sync(name: str, count: int = 2, **kwargs: Any) -> Any:
    return gym.make_vec(name, count, vectorization_mode="sync", **kwargs)


def drive(env: gym.Env[Any, Any], seed: int, steps: int = 30) -> list[Any]:
    """Return the observations and rewards of a random drive that depends on ``seed`` only."""
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    told = [observation]
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        told += [observation, np.float64(reward)]
        if terminated or truncated:
            observation, _ = env.reset()
            told.append(observation)
    return told


def test_registration_is_idempotent() -> None:
    register()
    assert set(TASKS) <= set(gym.registry)


@pytest.mark.parametrize("name", IDS)
def test_checkers(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for advice in ADVICE:
            warnings.filterwarnings("ignore", advice)
        env = gym.make(name)
        check_env(env.unwrapped)
        check_env_sb3(gym.make(name))


@pytest.mark.parametrize("name", IDS)
def test_seeds_decide_everything(name: str) -> None:
    env = gym.make(name)
    first = drive(env, 3)
    assert_same(first, drive(gym.make(name), 3))
    other = drive(env, 4)
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=False))


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_vector_rows_equal_single_environments(name: str, mode: AutoresetMode) -> None:
    """Also through time limits, which end the episodes of both at the same step."""
    ours = native(name, 3, autoreset_mode=mode, max_episode_steps=13)
    theirs = sync(name, 3, vector_kwargs={"autoreset_mode": mode}, max_episode_steps=13)
    # The native form is chosen by default.
    assert type(gym.make_vec(name, 3).unwrapped) is type(ours.unwrapped)
    for env in (ours, theirs):
        env.reset(seed=8)
    actions = actions_for(ours, 0, 60)
    first, second = record(ours, actions), record(theirs, actions)
    low, high = TASKS[name].reward_bounds
    for a, b in zip(first, second, strict=True):
        if len(a) == 5:  # a step: observations, rewards, ends; the infos stand below
            assert_same(a[:4], b[:4])
            rewards = np.array(a[1])
            assert ((rewards >= low) & (rewards <= high)).all()
            assert a[0].dtype == ours.observation_space.dtype
    assert any(np.any(a[3]) for a in first if len(a) == 5)  # some were truncated


@pytest.mark.parametrize("name", IDS)
def test_episodes_end_and_reset(name: str) -> None:
    env = native(name, autoreset_mode="SameStep")
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(3000):
        *_, terminated, truncated, infos = env.step(env.action_space.sample())
        done = terminated | truncated
        if done.any():
            row = int(np.flatnonzero(done)[0])
            assert infos["final_obs"][row].shape == env.single_observation_space.shape
            return
    pytest.fail("no episode ended within 3000 steps")


@pytest.mark.parametrize("name", IDS)
def test_what_was_told_is_not_touched_later(name: str) -> None:
    env = native(name, 3, autoreset_mode="SameStep", max_episode_steps=13)
    told = [env.reset(seed=0)]
    kept = [plain(told[0])]
    for action in actions_for(env, 0, 40):
        told.append(env.step(action))
        kept.append(plain(told[-1]))
    assert_same(told, kept)


@pytest.mark.parametrize("name", IDS)
def test_pictures(name: str) -> None:
    if "rgb_array" not in gym.make(name).metadata["render_modes"]:
        with pytest.raises(InputError, match="render_mode"):
            gym.make(name, render_mode="rgb_array")
        return
    env = gym.make(name, render_mode="rgb_array")
    env.reset(seed=1)
    env.action_space.seed(1)
    before = env.render()
    for _ in range(5):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            break
    after = env.render()
    assert isinstance(before, np.ndarray)
    assert isinstance(after, np.ndarray)
    assert after.dtype == np.uint8
    assert after.ndim == 3
    assert after.shape == before.shape
    assert (before != after).any()


#: Tasks whose episodes have a fixed length: they can be cut, and not drawn out.
FIXED = {"TinyPhysics-v0", "DoubleIntegrator-v0", "VanDerPol-v0"}


class TestTimeLimit:
    """``max_episode_steps`` means the same to every task, in every form."""

    @pytest.mark.parametrize("name", IDS)
    @pytest.mark.parametrize("limit", [12, None, -1])
    def test_all_forms_make_the_same_task(self, name: str, limit: int | None) -> None:
        kwargs = {"max_episode_steps": limit}
        # A fixed set of actions for one row, so that a row of a vector gets the same.
        single = alone(name, **kwargs)
        expected = limit if limit == 12 else alone(name).unwrapped.longest_episode
        for env in (single, native(name, 1, **kwargs), sync(name, 1, **kwargs).envs[0]):
            assert env.spec.max_episode_steps == expected
        assert TimeAwareObservation(single).max_timesteps == expected
        actions = actions_for(single, 0, min(expected, 120))
        rows = []
        for env in (single, native(name, 1, **kwargs), sync(name, 1, **kwargs)):
            vector = isinstance(env, gym.vector.VectorEnv)
            told: list[Any] = [env.reset(seed=4)]
            for action in actions:
                told.append(env.step(action[None] if vector else action))
                if np.any(told[-1][2]) or np.any(told[-1][3]):
                    break
            rows.append([[np.ravel(part) for part in list(step)[:-1]] for step in told])
        assert_same(rows[0], rows[1])
        assert_same(rows[0], rows[2])
        assert len(rows[0]) <= expected + 1

    @pytest.mark.parametrize("name", IDS)
    def test_remade_from_its_spec(self, name: str) -> None:
        env = alone(name, max_episode_steps=12)
        for spec in (env.spec, env.unwrapped.spec):
            again: Any = gym.make(spec)
            assert again.unwrapped.max_episode_steps == 12
            assert again.spec.max_episode_steps == 12
        vector = native(name, max_episode_steps=12)
        again = gym.make_vec(vector.spec)
        assert again.unwrapped.max_episode_steps == 12

    @pytest.mark.parametrize("name", IDS)
    @pytest.mark.parametrize("make", [alone, native, sync])
    def test_a_longer_episode_is_longer_or_refused(self, name: str, make: Any) -> None:
        longest = alone(name).unwrapped.longest_episode
        if name in FIXED:
            with pytest.raises(InputError, match=rf"max_episode_steps={2 * longest}.*{longest}"):
                make(name, max_episode_steps=2 * longest)
            return
        env = make(name, max_episode_steps=2 * longest)
        env = env.envs[0] if make is sync else env
        assert env.unwrapped.longest_episode == 2 * longest

    @pytest.mark.parametrize("name", IDS)
    @pytest.mark.parametrize("wrong", [0, -2, 2.5, "20", True])
    def test_wrong_limits_are_refused(self, name: str, wrong: Any) -> None:
        for make in (alone, native, sync):
            with pytest.raises(InputError, match="max_episode_steps"):
                make(name, max_episode_steps=wrong)

    @pytest.mark.parametrize("name", IDS)
    def test_the_default_is_the_registered_one(self, name: str) -> None:
        registered = gym.spec(name).max_episode_steps
        task: Any = alone(name).unwrapped
        assert registered == TASKS[name].max_episode_steps
        assert task.longest_episode == registered or registered is None
        assert type(task)().longest_episode == task.longest_episode  # made without gymnasium


class Outer(gym.Env[Any, Any]):
    """An environment that drives one of ours inside."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self) -> None:
        from steerlab.envs.inverted_pendulum.env import InvertedPendulumEnv

        self.inner = InvertedPendulumEnv()


def flat_pendulum(**kwargs: Any) -> Any:
    from steerlab.envs.inverted_pendulum.env import InvertedPendulumEnv

    return gym.wrappers.FlattenObservation(InvertedPendulumEnv(**kwargs))


def test_limits_of_other_environments_stay_theirs() -> None:
    entries: dict[str, Any] = {"Outer-v0": Outer, "Flat-v0": flat_pendulum}
    for name, entry in entries.items():
        gym.register(name, entry_point=entry, max_episode_steps=7)
    try:
        outer: Any = gym.make("Outer-v0").unwrapped
        assert outer.inner.max_episode_steps == 100
        flat: Any = gym.make("Flat-v0").unwrapped
        assert flat.max_episode_steps == 7
    finally:
        for name in entries:
            del gym.registry[name]
    own: Any = TimeLimit(gym.make("InvertedPendulumWide-v0"), 5)
    assert own.unwrapped.max_episode_steps == 100  # a wrapper of one's own only cuts


#: Arguments of public methods that need some.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "preview": ([1.0],), "render_row": (0,), "scene": (0,), "windshield": (0,),
}  # fmt: skip
#: Methods that make sense before an episode.
AT_ANY_TIME = {
    "settings", "set_attr", "get_attr", "row_indices", "use_sampler", "make_episodes",
}  # fmt: skip


@pytest.mark.parametrize("name", IDS)
def test_nothing_is_told_before_the_first_reset(name: str) -> None:
    env = native(name, render_mode=next(iter(alone(name).metadata["render_modes"]), None))
    task = env.unwrapped
    own = {m for m in dir(task) if not m.startswith("_") and callable(getattr(task, m))}
    methods = (own - set(dir(gym.vector.VectorEnv)) - AT_ANY_TIME) | {"render"}
    methods -= {m for m in own if isinstance(getattr(task, m), type)}  # classes kept as attributes
    for method in methods:
        with pytest.raises(gym.error.ResetNeeded, match=method):
            getattr(task, method)(*ARGUMENTS.get(method, ()))
    with pytest.raises(gym.error.ResetNeeded, match="step"):
        task.step(task.action_space.sample())
    single = alone(name).unwrapped
    for call in (single.render, lambda: single.step(single.action_space.sample())):
        with pytest.raises(gym.error.ResetNeeded):
            call()


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_actions_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    env, single = native(name, 3), alone(name).unwrapped
    for each in (env, single):
        each.reset(seed=0)
    actions = env.action_space.sample().astype(float)
    actions[1] = bad
    with pytest.raises(InputError, match=r"rows \[1\] is not finite"):
        env.step(actions)
    with pytest.raises(InputError, match="an action is not finite"):
        single.step(actions[1])
    # What was refused has left no trace.
    fine = actions_for(env, 0, 1)[0]
    fresh = native(name, 3)
    fresh.reset(seed=0)
    assert_same(env.step(fine), fresh.step(fine))


@pytest.mark.parametrize("name", IDS)
def test_an_action_of_a_row_that_is_reset_has_no_say(name: str) -> None:
    """In next-step mode; a policy may well answer NaN to the last observation of an episode."""
    env, other = (native(name, 2, max_episode_steps=12) for _ in range(2))
    for each in (env, other):
        each.reset(seed=0)
    for action in actions_for(env, 0, 30):
        done = env.unwrapped._done
        spoilt = np.where(done.reshape(-1, *[1] * (action.ndim - 1)), np.nan, action)
        assert_same(env.step(spoilt), other.step(action))


@pytest.mark.parametrize("name", IDS)
def test_wrong_shapes_name_what_is_needed(name: str) -> None:
    env, single = native(name, 3), alone(name).unwrapped
    for each in (env, single):
        each.reset(seed=0)
    with pytest.raises(InputError, match=r"actions of shape \(\).*shape \(3, "):
        env.step(0.5)
    with pytest.raises(InputError, match=r"an action of shape \(\).*shape \([12],"):
        single.step(0.5)
    with pytest.raises(InputError, match="real numbers"):
        single.step(np.full(single.action_space.shape, "left"))


@pytest.mark.parametrize("name", IDS)
def test_unknown_reset_options_are_refused(name: str) -> None:
    for env in (native(name), alone(name)):
        known = env.unwrapped.reset_options if hasattr(env, "num_envs") else None
        with pytest.raises(InputError, match=r"unknown reset option 'stat'"):
            env.reset(options={"stat": 1})
        for option in known or ():
            with pytest.raises(InputError, match=f"did you mean '{option}'"):
                env.reset(options={f"{option}_": 1})
        with pytest.raises(InputError, match="must be a dictionary"):
            env.reset(options=["seed"])


@pytest.mark.parametrize("name", IDS)
def test_whole_numbers_of_any_kind(name: str) -> None:
    kind = type(native(name).unwrapped)
    count: Any
    wrong: Any
    for count in (np.int64(2), np.uint8(2), np.array(2)):
        assert kind(count).reset(seed=0)[0].shape[0] == 2
    for wrong in ("2", 2.0, True, None, [2], np.array([2, 3]), 0, -1):
        with pytest.raises(InputError, match="num_envs"):
            kind(wrong)
    env = native(name)
    first = env.reset(seed=[5, 6])[0]
    for seed in (5, np.int64(5), (5, 6), np.array([5, 6]), [np.uint8(5), np.int32(6)], np.array(5)):
        assert_same(env.reset(seed=seed)[0], first)
    for wrong in (5.0, "5", True, -1, [5.0, 6.0], np.array([5.0, 6.0]), ["5", "6"], "56", [5, -6]):
        with pytest.raises(InputError, match="seed"):
            env.reset(seed=wrong)
    with pytest.raises(InputError, match="3 seeds for 2 rows"):
        env.reset(seed=[1, 2, 3])
    single = alone(name)
    assert_same(single.reset(seed=np.int64(5))[0], first[0])
    for wrong in (5.0, "5", True, -1, [5]):
        with pytest.raises(InputError, match="seed"):
            single.reset(seed=wrong)


#: What may change once a task is made, and to what; everything else has to be refused.
CHANGES: dict[str, dict[str, Any]] = {
    "InvertedPendulumWide-v0": {
        "reset_noise": 0.1,
        "process_noise": 0.2,
        "observation_noise": 0.05,
        "latency": 2,
        "pole_mass": (0.5, 1.5),
        "pole_length": 1.2,
        "gear": 0.9,
        "goals": (-1.0, 1.0),
        "obstacle": (0.5, 3),
    },
    "TinyPhysics-v0": {"seeds": "random"},
    "DoubleIntegrator-v0": {"disturbance": 0.3},
    "VanDerPol-v0": {"disturbance": 0.3},
    "KinematicDriver-v0": {
        "ranges": {"friction": (0.3, 0.4)},
        "noise": False,
        "reward": {"comfort": 0.9, "shaping": 0.5},
        "view": "bird",
    },
}
CHANGES["CarlaDriver-v0"] = {k: v for k, v in CHANGES["KinematicDriver-v0"].items() if k != "view"}


def by_vector(name: str) -> tuple[Any, Callable[[str, Any], Any]]:
    env = native(name, 2, max_episode_steps=15)
    return env, env.unwrapped.set_attr


def by_assignment(name: str) -> tuple[Any, Callable[[str, Any], Any]]:
    env = native(name, 2, max_episode_steps=15)
    return env, lambda key, value: setattr(env.unwrapped, key, value)


def by_wrapper(name: str) -> tuple[Any, Callable[[str, Any], Any]]:
    env = alone(name, max_episode_steps=15)
    return env, env.set_wrapper_attr


def by_single(name: str) -> tuple[Any, Callable[[str, Any], Any]]:
    env = alone(name, max_episode_steps=15)
    return env, lambda key, value: setattr(env.unwrapped, key, value)


def by_sync(name: str) -> tuple[Any, Callable[[str, Any], Any]]:
    env = sync(name, 2, max_episode_steps=15)
    return env, lambda key, value: env.set_attr(key, [value] * 2)


def by_adapter(name: str) -> tuple[Any, Callable[[str, Any], Any]]:
    env = make_sb3_vec(name, 2, max_episode_steps=15)
    return env, env.set_attr


WAYS = (by_vector, by_assignment, by_wrapper, by_single, by_sync, by_adapter)


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("way", WAYS)
class TestSettings:
    """An argument of the constructor that is set later works, or is refused at once."""

    def test_it_works_or_is_refused(self, name: str, way: Any) -> None:
        kind: type[BatchEnv] = type(native(name).unwrapped)
        changes = CHANGES.get(name, {})
        assert set(changes) <= kind.settings()
        env, put = way(name)
        begin(env)
        for key in sorted(kind.settings() - {"render_mode"} - set(changes)):
            with pytest.raises(InputError, match=f"{key} cannot change"):
                put(key, 1)
        for key in changes:
            env, put = way(name)
            begin(env)
            put(key, changes[key])
            fresh = made_with(env, name, {key: changes[key]})
            drives = []
            for each in (env, fresh):
                begin(each)
                drives.append(record(each, actions_for(env, 1, 20)))
            assert_same(*drives)

    def test_wrong_values_and_names_are_refused(self, name: str, way: Any) -> None:
        env, put = way(name)
        begin(env)
        for key in {"disturbance", "reset_noise", "latency"} & set(CHANGES.get(name, {})):
            with pytest.raises(InputError, match=f"{key}=-1"):
                put(key, -1)
        if way not in (by_wrapper, by_sync):  # gymnasium's own wrappers guard it
            with pytest.raises(InputError, match="render_mode"):
                put("render_mode", "ascii")
        if way not in (by_assignment, by_single):  # Python lets anybody add an attribute
            with pytest.raises(InputError, match="did you mean 'num_envs'"):
                put("num_env", 3)


def begin(env: Any) -> None:
    if hasattr(env, "venv"):
        env.seed(9)
        env.reset()
    else:
        env.reset(seed=9)


def made_with(env: Any, name: str, kwargs: dict[str, Any]) -> Any:
    """Return a task of the form of ``env``, made with these arguments."""
    kwargs = {**kwargs, "max_episode_steps": 15}
    if hasattr(env, "venv"):
        return make_sb3_vec(name, 2, **kwargs)
    if isinstance(env, SyncVectorEnv):
        return sync(name, 2, **kwargs)
    return native(name, 2, **kwargs) if hasattr(env, "num_envs") else alone(name, **kwargs)
