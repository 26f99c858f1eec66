"""PolicyNet on CarlaDriver-v0: one rollout for both tasks, features of pictures, all drives kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from steerlab.agents.policynet.closed_loop import Untrained
from steerlab.agents.policynet.driver import FramePolicy, OpenpilotDriver
from steerlab.agents.policynet.model import PolicyNet, PolicySize
from steerlab.agents.policynet.ppo import PPOConfig, critic_inputs, train_ppo
from steerlab.agents.policynet.rollout import FRAME, BehaviorMix, Drives, Rollout, collect
from steerlab.agents.policynet.task import CarlaTask, KinematicTask, task_named
from steerlab.agents.policynet.train import (
    ImitationConfig,
    load_policy,
    preview_teacher,
    save_policy,
    train_imitation,
)
from steerlab.envs.carla_driver.course import Course
from steerlab.envs.carla_driver.env import CarlaDriverVectorEnv
from steerlab.envs.carla_driver.scenarios import as_scenario
from steerlab.openpilot.engines import Network
from steerlab.seeds import HELD_OUT

TINY = ImitationConfig(
    total_steps=48, num_envs=2, steps=8, epochs=4.0, batch_size=4, reduced=8, hidden=8, trunk=8,
    hard=0.5, film=0, device="cpu",
)  # fmt: skip


class Brightness:
    """A vision network whose features say how bright the picture pair is, in rising powers."""

    calls = 0

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.calls += 1
        bright = inputs["img"].astype(np.float32).mean((1, 2, 3)) / 255
        return {"outputs": bright[:, None] ** np.linspace(0.1, 2, 512, dtype=np.float32)}


@pytest.fixture
def vision() -> Network:
    return Network(Brightness(), {"hidden_state": slice(0, 512)}, {"img": (), "big_img": ()})


def task(*names: str) -> CarlaTask:
    return CarlaTask([Course(as_scenario(n), traffic=0, steps=60) for n in names])


def test_scenarios_take_turns_in_easy_and_hard_drives() -> None:
    """With hard=0.5 every second drive is hard: each of two scenarios gets both kinds."""
    two = task("country_road", "highway_follow")
    names = [two.env(1, i).scenario.name for i in range(4)]  # type: ignore[attr-defined]
    assert sorted(zip(names, "ehehe", strict=False)) == [
        ("country_road", "e"), ("country_road", "h"), ("highway_follow", "e"), ("highway_follow", "h"),
    ]  # fmt: skip


def test_pictures_are_those_of_the_environment(vision: Network) -> None:
    """The driver's features are of the windshield's pictures; each task renders its own."""
    network = PolicyNet("openpilot-0.10.0", PolicySize(8, 8, 8)).eval()
    seen = {}
    for name in ("KinematicDriver-v0", "CarlaDriver-v0"):
        env = task_named(name).env(1)
        driver = OpenpilotDriver(env, network.contract, FramePolicy(network, 1), vision)
        observation, info = env.reset(seed=3)
        driver.reset(observation, info)
        frame, _ = driver.ask(observation)
        narrow, wide = env.planes(0)
        np.testing.assert_array_equal(frame.images["image"][0], narrow)
        np.testing.assert_array_equal(frame.images["wide_image"][0], wide)
        assert frame.features is not None
        seen[name] = frame.features
    assert np.abs(seen["KinematicDriver-v0"] - seen["CarlaDriver-v0"]).max() > 0.01


def test_windshields_belong_to_an_episode() -> None:
    env = CarlaDriverVectorEnv(2, "country_road", traffic=0, autoreset_mode="Disabled")
    env.reset(seed=1)
    first = [env.windshield(row) for row in (0, 1)]
    assert env.windshield(0) is first[0]
    env.reset(options={"reset_mask": np.array([True, False])})
    assert env.windshield(0) != first[0]
    assert env.windshield(1) is first[1]


def test_the_teacher_is_that_of_collect() -> None:
    """It follows the road's speed plan, which stops at lines; the cautious one of KinematicDriver does not."""
    carla, kinematic = preview_teacher(TINY, CarlaTask()), preview_teacher(TINY, KinematicTask())
    env = CarlaTask().env(1)
    assert (carla(env).lateral, kinematic(env).lateral) == (None, 1.7)  # type: ignore[attr-defined]


def test_a_drive_counts_the_violations_of_its_task(vision: Network) -> None:
    network = PolicyNet("openpilot-0.10.0", PolicySize(8, 8, 8)).eval()
    carla = task("country_road")
    env = carla.env(1, autoreset_mode="Disabled")
    teacher = preview_teacher(TINY, carla)(env)
    mixture = BehaviorMix(teacher=1.0, noise=0.0)
    drive = collect(network, env, teacher, 6, 1, mixture, vision)
    assert {"collision", "red_light", "stop_sign", "boundary"} <= drive.figures.keys()
    speed = FRAME.split(drive.frames)["speed"]
    assert (speed > 1).all()
    assert drive.features[:, 0].float().std(0).max() > 0  # pictures change


def test_drives_are_kept_side_by_side() -> None:
    def drive(value: float) -> Rollout:
        whole = torch.full((5, 2), int(value))
        return Rollout(
            torch.full((5, 2, 3), value), torch.full((5, 2, FRAME.size), value), whole, whole,
            {"cte_mean": value},
        )  # fmt: skip

    drives = Drives()
    drives.add(drive(1.0))
    other = Drives()
    other.load_state_dict(drives.state_dict())
    both = other.add(drive(2.0))
    assert both.figures == {"cte_mean": 2.0}
    assert both.first.tolist() == [[1, 1, 2, 2]] * 5
    assert both.features[0, :, 0].tolist() == [1.0, 1.0, 2.0, 2.0]


class Stopped(Exception):
    """Ends a training between two drives."""


@pytest.mark.slow
def test_a_stopped_training_ends_as_one_that_was_not(
    vision: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three drives, learned from to the end: checkpoints carry them."""
    from steerlab.agents.policynet import train

    carla = task("country_road")
    whole = train_imitation(TINY, tmp_path / "whole", vision=vision, task=carla)
    assert (whole.features, whole.task) == ("vision", "CarlaDriver-v0")
    assert load_policy(tmp_path / "whole" / "policy_model.pth").task == "CarlaDriver-v0"
    drive, sizes = train._drive, []

    def stops(config: Any, network: Any, iteration: int, *rest: Any) -> Rollout:
        if iteration == 2:
            raise Stopped
        return drive(config, network, iteration, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(train, "_drive", stops)
        with pytest.raises(Stopped):
            train_imitation(TINY, tmp_path / "cut", vision=vision, task=carla)
    update = train._update

    def counted(network: Any, optimizer: Any, rollout: Rollout, *rest: Any) -> dict[str, float]:
        sizes.append(rollout.first.shape[1])
        return update(network, optimizer, rollout, *rest)

    monkeypatch.setattr(train, "_update", counted)
    cut = train_imitation(TINY, tmp_path / "cut", vision=vision, task=carla)
    assert set(sizes) == {6}  # two rows of each of three drives
    for name, values in whole.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[name], values, rtol=0, atol=0)


@pytest.mark.slow
def test_ppo_over_pictures(vision: Network, tmp_path: Path) -> None:
    network = PolicyNet("openpilot-0.10.0", PolicySize(8, 8, 8))
    save_policy(tmp_path / "start.pth", network)
    ppo = PPOConfig(num_envs=1, steps=30, epochs=2.0, batch_size=4, critic_first=1)
    config = ImitationConfig(total_steps=60, film=0, device="cpu")
    carla = task("country_road")
    trained = train_ppo(
        config, ppo, tmp_path / "run", tmp_path / "start.pth", vision=vision, task=carla
    )
    assert critic_inputs(carla.env(1)) == 224 + 18 + 2 * 8 + 2
    assert not torch.equal(trained.heads.weight, network.heads.weight)


def test_who_is_set_beside_sees_what_the_policy_sees(vision: Network) -> None:
    class File:
        path = "there"

        def open(self) -> Network:
            return vision

    env = task("country_road").env(1)
    observation, info = env.reset(seed=HELD_OUT)
    driver = Untrained("openpilot-0.10.0", File())(env)  # type: ignore[arg-type]
    driver.reset(observation, info)
    driver(observation, info)
    assert vision.engine.calls == 1  # type: ignore[attr-defined]
