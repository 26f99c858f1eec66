"""The training learns, goes on where it was stopped, and refuses what cannot work."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerlab.agents import driving
from steerlab.agents.checkpoint import load_checkpoint
from steerlab.agents.run_log import read_log
from steerlab.agents.visionnet import data, training
from steerlab.agents.visionnet.features import episode_features
from steerlab.agents.visionnet.network import VisionNet
from steerlab.agents.visionnet.pictures import compare_pictures
from steerlab.agents.visionnet.training import (
    DatasetOptions,
    OptimOptions,
    VisionTraining,
    rate,
    train_vision,
)
from steerlab.envs.shards.read import Shard
from steerlab.errors import InputError
from steerlab.files import watch_changes
from steerlab.seeds import initial_weights

SMALL = VisionTraining(
    epochs=2, batch_size=6, val_batch_size=5, log_interval=2, checkpoint_interval=3,
    learning_rate=1e-2, device="cpu", optim=OptimOptions(warmup_epochs=0.25),
)  # fmt: skip


@pytest.fixture
def small(mini: str, monkeypatch: pytest.MonkeyPatch) -> VisionTraining:
    monkeypatch.setattr(training, "_SHOWN", 1)
    return replace(SMALL, size=mini)


def test_features_are_kept_for_their_weights_and_their_shard(
    mini: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with initial_weights(0):
        first, second = (VisionNet(mini).eval() for _ in range(2))
    found = data.find(shards, "x")[0][:2]
    made = [[episode_features(n, s, tmp_path) for s in found] for n in (first, second)]
    for network, kept in zip((first, second), made, strict=True):
        for shard, features in zip(found, kept, strict=True):
            np.testing.assert_array_equal(features, episode_features(network, shard))
    assert np.abs(made[0][0] - made[1][0]).max() > 0
    assert len(list(tmp_path.glob("*_features_*"))) == 4
    assert len(list(tmp_path.glob("*_frames.npy"))) == 2
    monkeypatch.setattr(VisionNet, "features", None)  # nothing is computed a second time
    np.testing.assert_array_equal(episode_features(first, found[0], tmp_path), made[0][0])
    for path in tmp_path.glob("*_features_*"):
        path.write_bytes(b"no array")
    with pytest.raises(InputError, match="delete it"):
        episode_features(first, found[0], tmp_path)


@pytest.fixture
def parts(shards: Path) -> tuple[list[Shard], list[Shard]]:
    return data.split_by_map(data.find(shards, "x")[0], ["south"])


class Stopped(BaseException):
    """What a kill is in this process."""


def stop_at(moment: int) -> Any:
    seen = iter(range(1, 10_000))

    def hook(when: str, path: Path) -> None:
        if next(seen) == moment:
            raise Stopped

    return hook


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return bool(a == b)


@pytest.mark.slow
def test_a_stopped_training_ends_as_one_that_was_not(
    small: VisionTraining, parts: tuple[list[Shard], list[Shard]], tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train_vision(small, *parts, whole).is_file()
    # Moments in the middle of an epoch, between an epoch's files, and at the end.
    for moment in (3, 9, 13):
        with watch_changes(stop_at(moment)), pytest.raises(Stopped):
            train_vision(small, *parts, stopped)
    train_vision(small, *parts, stopped)
    assert read_log(stopped) == read_log(whole)
    for epoch in (1, 2):
        a, b = (driving.load_driving(f / driving.FOLDER / f"epoch_000{epoch}.pt")
                for f in (whole, stopped))  # fmt: skip
        assert same(a, b)
    a, b = (load_checkpoint(folder / "last.pt") for folder in (whole, stopped))
    for name in ("network", "optimizer", "average", "values"):
        assert same(a[name], b[name])


def test_the_checkpoint_opens_with_plain_torch_and_makes_the_network(
    small: VisionTraining, parts: tuple[list[Shard], list[Shard]], tmp_path: Path
) -> None:
    path = train_vision(replace(small, epochs=1), *parts, tmp_path, policy={"state": {}, "x": 1})
    assert path == tmp_path / "artifacts/checkpoints/epoch_0001.pt" == driving.newest(tmp_path)
    plain = torch.load(path, weights_only=True)
    assert {"vision", "policy"} < plain.keys()
    assert plain["policy"] == {"state": {}, "x": 1}
    assert plain["told"]["epoch"] == 1
    network = driving.load_vision(path)
    assert not network.training
    shard = parts[1][0]
    features = episode_features(network, shard)
    assert features.shape == (shard.frames, 512)
    pair = data.FramePairs([shard])[3]
    with torch.no_grad():
        alone = network.features(*(torch.as_tensor(pair[n])[None] for n in ("img", "big_img")))
    np.testing.assert_allclose(features[3], alone[0], atol=1e-5)
    sheet = compare_pictures(network, data.FramePairs(parts[1]), [2, 5])
    assert sheet.shape == (1024, 1024, 3)
    assert (sheet[:512, :512] != sheet[:512, 512:]).any()  # other lines on the same pictures
    # Weights to begin with: after a training with hardly any learning they are what was given.
    start = driving.load_driving(path)["vision"]
    slow = replace(small, epochs=1, learning_rate=1e-12, weight_decay=0.0, ema_decay=0.0)
    again = driving.load_driving(train_vision(slow, *parts, tmp_path / "b", start))["vision"]
    name = "heads.0.weight"
    torch.testing.assert_close(again["state"][name], start["state"][name])
    with pytest.raises(InputError, match="size=tiny"):
        train_vision(replace(slow, size="tiny"), *parts, tmp_path / "c", start)


@pytest.mark.slow
def test_it_learns(
    small: VisionTraining, parts: tuple[list[Shard], list[Shard]], tmp_path: Path
) -> None:
    quick = replace(small, epochs=5, batch_size=12, log_interval=1, checkpoint_interval=100)
    train_vision(quick, *parts, tmp_path)
    losses = [r["train/loss"] for r in read_log(tmp_path) if "train/loss" in r]
    assert len(losses) == 10
    assert losses[-1] < losses[0] - 1.0


@pytest.mark.slow
def test_every_option_has_an_effect(
    small: VisionTraining, parts: tuple[list[Shard], list[Shard]], tmp_path: Path
) -> None:
    once = replace(small, epochs=1, batch_size=8)

    def result(number: int, **changes: Any) -> dict[str, Any]:
        path = train_vision(replace(once, **changes), *parts, tmp_path / str(number))
        state: dict[str, Any] = driving.load_driving(path)["vision"]["state"]
        return state

    plain = result(0)
    assert same(plain, result(1, val_batch_size=3, checkpoint_interval=1))
    different: Iterator[dict[str, Any]] = iter([
        {"learning_rate": 1e-3}, {"weight_decay": 0.5}, {"likelihood": "gaussian"},
        {"ema_decay": 0.0}, {"gradient_clip": 0.01}, {"seed": 1}, {"batch_size": 4},
        {"mixed_precision": "bf16"}, {"dataset": DatasetOptions(augmentations=())},
        {"optim": OptimOptions("constant", 0.25)}, {"optim": OptimOptions("cosine", 0.0)},
    ])  # fmt: skip
    for number, changes in enumerate(different, 2):
        assert not same(plain, result(number, **changes)), changes


def test_learning_rates() -> None:
    config = replace(SMALL, epochs=10, learning_rate=1.0, optim=OptimOptions(warmup_epochs=1.0))
    # 100 steps, ten an epoch: up over ten of them, then down along half a cosine.
    assert rate(config, 0, 100, 10) == pytest.approx(1 / 11)
    assert rate(config, 10, 100, 10) == pytest.approx(1.0)
    assert rate(config, 55, 100, 10) == pytest.approx(0.505)
    linear = replace(config, optim=OptimOptions("linear", 1.0))
    assert rate(linear, 82, 100, 10) == pytest.approx(0.01 + 0.99 * 0.2)
    assert rate(replace(config, optim=OptimOptions("constant", 0.0)), 99, 100, 10) == 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": "huge"}, "huge"),
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": 0.0}, "learning_rate=0"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"mixed_precision": "fp16"}, "GPU"),
        ({"mixed_precision": "half"}, "half"),
        ({"likelihood": "cauchy"}, "cauchy"),
        ({"optim": OptimOptions("stairs")}, "stairs"),
        ({"optim": OptimOptions("cosine", 2.0)}, "warmup_epochs"),
        ({"batch_size": 40}, "too few"),
        ({"contract": "openpilot-supercombo-2026-06"}, "no vision network"),
    ],
)
def test_refusals(
    small: VisionTraining,
    parts: tuple[list[Shard], list[Shard]],
    tmp_path: Path,
    changes: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(InputError, match=said):
        train_vision(replace(small, **changes), *parts, tmp_path)
