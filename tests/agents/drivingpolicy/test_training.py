"""The stages behind vision: what is stopped ends as what was not, and checkpoints hold both networks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.classical.route_driver import route_driver
from steerlab.agents.driving import load_driving, save_driving, vision_part
from steerlab.agents.drivingpolicy import dagger
from steerlab.agents.drivingpolicy.checkpoint import load_driving_policy
from steerlab.agents.drivingpolicy.data import Windows
from steerlab.agents.drivingpolicy.network import Diffusion
from steerlab.agents.drivingpolicy.training import (
    DaggerOptions,
    PolicyOptions,
    policy_stage,
    settings_of,
    train_policy,
)
from steerlab.agents.supervised import fit
from steerlab.agents.visionnet.network import VisionNet
from steerlab.envs.carla_driver.collecting import Episode, collect
from steerlab.envs.carla_driver.scenarios import as_scenario
from steerlab.envs.shards.read import Shard, open_shard
from steerlab.errors import InputError
from steerlab.openpilot.contracts import contract
from tests.agents.drivingpolicy.episodes import invented

SMALL = PolicyOptions(epochs=3, batch_size=32, reduced=8, hidden=8, trunk=8)


@dataclass
class Options:
    """What the stages read of the study's options."""

    policy: PolicyOptions = SMALL
    diffusion: Diffusion = field(default_factory=lambda: Diffusion(1))
    dagger: DaggerOptions = field(default_factory=DaggerOptions)
    processes: int = 1
    cache: str = ""
    contract: str = "openpilot-0.10.0"
    seed: int = 0
    device: str = "cpu"


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_stopped_training_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, valid = Windows([invented(0), invented(1)]), Windows([invented(2)])
    settings = settings_of(SMALL, Diffusion(2), contract="openpilot-0.10.0", seed=4, device="cpu")
    whole = train_policy(settings, train, valid, tmp_path / "whole").state_dict()

    def stopped(model: Any, loss: Any, *rest: Any) -> Any:
        calls = 0

        def counted(*given: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > 5:  # in the second epoch
                raise KeyboardInterrupt
            return loss(*given)

        return fit(model, counted, *rest)

    with monkeypatch.context() as patched:
        patched.setattr("steerlab.agents.drivingpolicy.training.fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            train_policy(settings, train, valid, tmp_path / "part")
    assert same(train_policy(settings, train, valid, tmp_path / "part").state_dict(), whole)
    other = settings_of(SMALL, Diffusion(1), contract="openpilot-0.10.0", seed=4, device="cpu")
    with pytest.raises(InputError, match="other settings"):
        train_policy(other, train, valid, tmp_path / "part")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Shard]:
    """Two short episodes; their frames are black."""
    folder = tmp_path_factory.mktemp("shards")
    rule = contract("openpilot-0.10.0").command
    scenario = as_scenario("country_road")
    return [
        open_shard(
            collect(
                Episode(scenario, seed, steps=60, pictures=False),
                folder,
                PreviewDriver,
                route_driver,
                rule,
            )
        )
        for seed in (1, 2)
    ]


@pytest.fixture(scope="module")
def vision_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vision") / "epoch_0007.pt"
    return save_driving(path, vision_part(VisionNet("tiny")), None, {"epoch": 7})


def test_a_shard_without_pictures_has_all_the_rest(shards: list[Shard]) -> None:
    for shard in shards:
        assert shard.attributes["pictures"] is False
        assert not shard.read("img").any()
        assert shard.frames == 15
        assert np.abs(shard.read("plan")[:, :, 3]).max() > 5  # m/s


def test_the_policy_stage_leaves_vision_as_it_is(
    shards: list[Shard], vision_checkpoint: Path, tmp_path: Path
) -> None:
    path = policy_stage(Options(), vision_checkpoint, shards[:1], shards[1:], tmp_path)
    assert path == tmp_path / "artifacts/checkpoints/epoch_0010.pt"
    before, after = load_driving(vision_checkpoint), load_driving(path)
    assert same(before["vision"]["state"], after["vision"]["state"])
    assert after["told"]["stage"] == "policy"
    assert load_driving_policy(path).design.diffusion.steps == 1
    assert set(torch.load(path, weights_only=True)) >= {"vision", "policy"}


def test_rounds_need_a_whole_pair(
    vision_checkpoint: Path, shards: list[Shard], tmp_path: Path
) -> None:
    options = Options(dagger=DaggerOptions(rounds=1))
    with pytest.raises(InputError, match="stage=policy"):
        dagger.dagger_stage(options, vision_checkpoint, shards, shards, tmp_path)
    for wrong, words in (
        (DaggerOptions(rounds=-1), "dagger.rounds=-1"), (DaggerOptions(episodes=0), "episodes=0"),
        (DaggerOptions(steps=5), "steps=5"), (DaggerOptions(teacher=2.0), "teacher=2.0"),
        (DaggerOptions(takeover=0.0), "takeover=0.0"),
        (DaggerOptions(overspeed=0.0), "overspeed=0.0"),
        (DaggerOptions(scenario=("nowhere",)), "nowhere"),
        (DaggerOptions(rounds=1, scenario=()), "at least one"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            dagger.check_dagger(wrong)


@pytest.mark.slow
def test_stopped_rounds_end_as_those_that_were_not(
    shards: list[Shard], vision_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped twice: amid the episodes of a round, and amid the training of the next one.

    Two processes drive what was missing.
    """
    start = policy_stage(Options(), vision_checkpoint, shards[:1], shards[1:], tmp_path / "start")
    told = DaggerOptions(rounds=2, scenario=("country_road",), episodes=2, steps=12)

    def go(folder: str, processes: int = 1) -> Path:
        options = Options(dagger=told, processes=processes)
        return dagger.dagger_stage(options, start, shards[:1], shards[1:], tmp_path / folder)

    whole = load_driving(go("whole"))
    driven: list[int] = []
    trained: list[int] = []

    def one_episode(*given: Any) -> Path:
        if driven:
            raise KeyboardInterrupt
        driven.append(1)
        return collect(*given)

    def one_training(*given: Any) -> Any:
        if trained:
            raise KeyboardInterrupt
        trained.append(1)
        return train_policy(*given)

    for name, part in (("collect", one_episode), ("train_policy", one_training)):
        with monkeypatch.context() as patched:
            patched.setattr(dagger, name, part)
            with pytest.raises(KeyboardInterrupt):
                go("part")
    again = load_driving(go("part", processes=2))
    assert same(whole["policy"]["state"], again["policy"]["state"])
    assert whole["told"] == again["told"]
    assert again["told"]["round"] == 2
    rounds = [sorted(p.name for p in (tmp_path / "part" / "dagger" / f"round_0{n}").glob("*.zarr"))
              for n in (1, 2)]  # fmt: skip
    assert [len(r) for r in rounds] == [2, 2]
    assert not set(rounds[0]) & set(rounds[1])
