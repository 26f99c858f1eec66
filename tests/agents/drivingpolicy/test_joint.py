"""The joint stage: the policy's loss reaches the vision network, and a stopped stage ends as a whole one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steerlab.agents.driving import FOLDER, load_driving, save_driving, vision_part
from steerlab.agents.drivingpolicy.data import Windows
from steerlab.agents.drivingpolicy.joint import (
    JointOptions,
    PolicyFollower,
    check_joint,
    joint_stage,
)
from steerlab.agents.drivingpolicy.losses import policy_loss
from steerlab.agents.drivingpolicy.network import Diffusion
from steerlab.agents.drivingpolicy.training import PolicyOptions, new_policy, settings_of
from steerlab.agents.training_loop import step_generator
from steerlab.agents.visionnet import data, training
from steerlab.agents.visionnet.network import SIZES, VisionNet, VisionSize
from steerlab.agents.visionnet.training import OptimOptions, VisionTraining
from steerlab.envs.shards.read import Shard
from steerlab.errors import InputError
from steerlab.files import watch_changes
from tests.agents.drivingpolicy.episodes import invented
from tests.agents.visionnet.shards import write_shards

DESIGN = PolicyOptions(epochs=1, reduced=8, hidden=8, trunk=8), Diffusion(1)
SETTINGS = settings_of(*DESIGN, contract="openpilot-0.10.0", seed=0, device="cpu")
CONFIG = VisionTraining(
    size="mini", batch_size=6, val_batch_size=12, log_interval=2, checkpoint_interval=3, device="cpu",
    optim=OptimOptions(warmup_epochs=0.25),
)  # fmt: skip
JOINT = JointOptions(epochs=2, learning_rate=1e-2)

Parts = tuple[list[Shard], list[Shard]]


@pytest.fixture(autouse=True)
def mini(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "mini", VisionSize((4, 4, 4, 4), (1, 1, 1, 1), 2, 4))
    monkeypatch.setattr(training, "_SHOWN", 1)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    pytest.importorskip("zarr")
    shards = write_shards(tmp_path_factory.mktemp("joint") / "shards")
    return data.split_by_map(data.find(shards, "x")[0], ["south"])


@pytest.fixture
def start(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = VisionNet("mini")
    return save_driving(tmp_path / "start.pt", vision_part(network), None, {"epoch": 7})


def test_with_unchanged_features_the_loss_is_that_of_the_policy_stage() -> None:
    windows = Windows([invented(0), invented(1)])
    follower = PolicyFollower(new_policy(SETTINGS, windows), windows, 0.5, seed=3)
    numbers = torch.tensor([5, 41, 79])
    newest = windows.features[numbers + 1].clone().requires_grad_()
    found = follower(numbers, newest, 11)
    expected = policy_loss(follower.policy, windows[numbers], step_generator("training", 3, 11))
    torch.testing.assert_close(found["loss"], 0.5 * expected["loss"])
    torch.testing.assert_close(found["policy_steer"], expected["steer"])
    found["loss"].backward()
    assert newest.grad is not None
    assert (newest.grad.abs().sum(1) > 0).all()


def test_the_store_holds_a_frames_features_of_its_last_batch() -> None:
    windows = Windows([invented(0)])
    follower = PolicyFollower(new_policy(SETTINGS, windows), windows, 1.0, seed=0)
    before = follower.store.clone()
    follower(torch.tensor([4]), torch.full((1, 512), 2.0), 0)
    assert (follower.store[5] == 2.0).all()
    kept = torch.ones(len(before), dtype=torch.bool)
    kept[5] = False
    assert torch.equal(follower.store[kept], before[kept])
    # The next frame's window ends with frame 4 and its own features.
    seen: list[torch.Tensor] = []
    hook = follower.policy.encoder.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    follower(torch.tensor([5]), torch.full((1, 512), 3.0), 1)
    hook.remove()
    assert seen[0][0, -3:, 0].tolist() == [before[4, 0].item(), 2.0, 3.0]


def test_the_policy_shapes_the_vision_network(parts: Parts, start: Path, tmp_path: Path) -> None:
    found = {}
    for name, weight in (("weak", 1e-9), ("strong", 10.0)):
        options = replace(JOINT, weight=weight, epochs=1)
        path = joint_stage(CONFIG, options, DESIGN, start, *parts, tmp_path / name)
        assert path == tmp_path / name / FOLDER / "epoch_0008.pt"
        found[name] = load_driving(path)
        assert found[name]["told"]["stage"] == "joint"
        assert found[name]["policy"] is None
    weak, strong = (found[n]["vision"]["state"]["join.weight"] for n in found)
    assert not torch.allclose(weak, strong, atol=1e-4)


class Stopped(BaseException):
    """What a kill is in this process."""


@pytest.mark.slow
def test_a_stopped_stage_ends_as_one_that_was_not(
    parts: Parts, start: Path, tmp_path: Path
) -> None:
    def stage(name: str) -> dict[str, Any]:
        return load_driving(joint_stage(CONFIG, JOINT, DESIGN, start, *parts, tmp_path / name))

    whole = stage("whole")
    for moment in (2, 8):
        seen = iter(range(1, 10_000))

        def hook(when: str, path: Path, last: int = moment, seen: Any = seen) -> None:
            if next(seen) == last:
                raise Stopped

        with watch_changes(hook), pytest.raises(Stopped):
            stage("stopped")
    stopped = stage("stopped")
    assert stopped["told"] == whole["told"]
    for name, values in whole["vision"]["state"].items():
        assert torch.equal(values, stopped["vision"]["state"][name]), name
    log = [(tmp_path / n / "joint" / "metrics.jsonl").read_text() for n in ("whole", "stopped")]
    assert log[0] == log[1]
    assert "train/policy_steer" in log[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (JointOptions(epochs=0), r"joint\.epochs=0 must be at least 1"),
        (JointOptions(epochs=1, weight=0.0), r"joint\.weight=0\.0 must be positive"),
        (JointOptions(epochs=1, learning_rate=-1.0), r"joint\.learning_rate=-1\.0"),
    ],
)
def test_refusals(options: JointOptions, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_joint(options, at_least=1)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerlab.agents.drivingpolicy.joint.processes", lambda: (2, 1))
    with pytest.raises(InputError, match="one process"):
        check_joint(JointOptions(epochs=1))
