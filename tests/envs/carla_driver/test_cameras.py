"""Cameras as observations: shapes, history, copies, and rows that do not depend on one another."""

import pickle

import gymnasium as gym
import numpy as np
import pytest

import steerlab.envs  # noqa: F401
from steerlab.envs.cameras import renderer
from steerlab.envs.carla_driver.env import CarlaDriverVectorEnv
from steerlab.errors import InputError

pytest.importorskip("numba")

ACTION = np.array([0.0, 0.1], np.float32)


@pytest.mark.slow
def test_model_frames_are_a_pair_0_2_s_apart() -> None:
    env = gym.make(
        "CarlaDriver-v0", camera="model", scenario="country_road", render_mode="rgb_array"
    )
    seen = [env.reset(seed=3)[0]]
    assert env.observation_space.contains(seen[0])
    assert (seen[0]["img"][:6] == 0).all()  # the queue begins empty
    seen += [env.step(ACTION)[0] for _ in range(5)]
    for name in ("img", "big_img"):
        assert seen[5][name].shape == (12, 128, 256)
        np.testing.assert_array_equal(seen[5][name][:6], seen[1][name][6:])
        assert (seen[5][name][6:] != seen[4][name][6:]).any()
    picture = env.render()
    assert isinstance(picture, np.ndarray)
    assert picture.shape == (512, 512 + 512, 3)  # both cameras, and the square from above
    env.close()


@pytest.mark.slow
def test_a_pickled_environment_sees_the_same() -> None:
    env = gym.make("CarlaDriver-v0", camera="rgb", scenario="country_road").unwrapped
    observation, _ = env.reset(seed=1)
    assert observation["narrow"].shape == observation["wide"].shape == (256, 512, 3)
    twin = pickle.loads(pickle.dumps(env))
    for _ in range(3):
        ours, theirs = env.step(ACTION)[0], twin.step(ACTION)[0]
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.slow
def test_rows_render_in_turn() -> None:
    both = CarlaDriverVectorEnv(2, scenario="country_road", camera="rgb", max_episode_steps=10)
    single = CarlaDriverVectorEnv(1, scenario="country_road", camera="rgb", max_episode_steps=10)
    ours, _ = both.reset(seed=[5, 6])
    theirs, _ = single.reset(seed=6)
    for _ in range(13):  # over the end of an episode
        np.testing.assert_array_equal(ours["wide"][1], theirs["wide"][0])
        ours = both.step(np.stack([ACTION, ACTION]))[0]
        theirs = single.step(ACTION[None])[0]
    assert both.observation_space.contains(ours)


def test_unknown_cameras_and_missing_extras_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="camera"):
        CarlaDriverVectorEnv(1, camera="fisheye")
    monkeypatch.setattr(renderer, "has_numba", lambda: False)
    renderer._renderer.cache_clear()
    env = CarlaDriverVectorEnv(1, camera="rgb")
    with pytest.raises(InputError, match=r"steerlab\[camera\]"):
        env.reset(seed=0)
    monkeypatch.undo()
    renderer._renderer.cache_clear()
