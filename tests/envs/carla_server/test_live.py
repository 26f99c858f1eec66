"""The same things on a running CARLA server: set CARLA_HOST, and CARLA_PORT if it is not 2000."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.envs.carla_driver.env import VIOLATIONS, CarlaDriverVectorEnv
from steerlab.envs.carla_driver.server.connection import connect
from steerlab.envs.carla_driver.server.session import ROLE
from steerlab.envs.shards.read import find_shards, open_shard
from steerlab.experiments import collect

HOST, PORT = os.environ.get("CARLA_HOST", ""), int(os.environ.get("CARLA_PORT", "2000"))
pytestmark = [
    pytest.mark.carla_server,
    pytest.mark.skipif(not HOST, reason="no CARLA server: set CARLA_HOST (and CARLA_PORT)"),
]
SERVER = {"host": HOST, "port": PORT}


@pytest.fixture
def world() -> Iterator[Any]:
    """The server's world, which has to be as before afterwards."""
    client, _ = connect(HOST, PORT)
    world = client.get_world()
    before = world.get_settings()
    yield world
    world = client.get_world()
    assert world.get_settings() == before
    everyone: Any = world.get_actors()
    assert [actor.id for actor in everyone if actor.attributes.get("role_name") == ROLE] == []


def town(world: Any) -> str:
    return str(world.get_map().name.rpartition("/")[2])


def test_the_teacher_drives(world: Any) -> None:
    env = CarlaDriverVectorEnv(
        1, scenario="country_road", map=town(world), backend="server", server=SERVER,
        camera="rgb", traffic=5, max_episode_steps=200,
    )  # fmt: skip
    try:
        observation, info = env.reset(seed=0)
        driver = PreviewDriver(env)
        driver.reset(observation, info)
        offsets = []
        for _ in range(200):
            observation, _, terminated, truncated, info = env.step(driver(observation, info))
            offsets.append(abs(float(info["cte"][0])))
            if terminated[0] or truncated[0]:
                break
        assert observation["narrow"].std() > 5
        print("violation", VIOLATIONS[int(info["violation"][0])], "offset", np.max(offsets))
        assert np.median(offsets) < 0.5
    finally:
        env.close()


def test_collect(world: Any, tmp_path: Path) -> None:
    config = collect.Config(
        scenario=("country_road",), map=town(world), episodes=1, steps=60, backend="server",
        carla_host=HOST, carla_port=PORT,
    )  # fmt: skip
    collect.run(config, tmp_path)
    (path,) = find_shards(tmp_path)
    open_shard(path).check()
