"""Where PolicyNet learns: every tensor of its losses on one device, and devices that are not there."""

from pathlib import Path

import numpy as np
import pytest
import torch

from steerlab.agents.policynet.losses import imitation_loss, random_windows, window_batch
from steerlab.agents.policynet.model import PolicyNet, PolicySize
from steerlab.agents.policynet.rollout import FRAME, Rollout
from steerlab.agents.policynet.train import ImitationConfig, load_policy, train_imitation
from steerlab.errors import InputError
from steerlab.experiments import train_policynet

TINY = {
    "num_envs": 2, "steps": 30, "total_steps": 120, "batch_size": 4, "epochs": 1.0, "film": 0,
    "reduced": 8, "hidden": 8, "trunk": 8,
}  # fmt: skip
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def a_drive() -> Rollout:
    steps, rows = 60, 3
    return Rollout(
        torch.zeros(steps, rows, 512, dtype=torch.float16),
        torch.ones(steps, rows, FRAME.size),
        torch.zeros(steps, rows, dtype=torch.long),
        torch.full((steps, rows), steps - 1),
        chance=torch.zeros(steps, rows, 2),
    )


@pytest.mark.parametrize("contract", ["openpilot-0.10.0", "openpilot-0.10.1"])
def test_losses_stay_on_the_device_of_network_and_drive(contract: str) -> None:
    """On torch's device without memory, which every machine has and which mixes with no other."""
    meta = torch.device("meta")
    network = PolicyNet(contract, PolicySize(8, 8, 8)).to(meta)
    generator = torch.Generator().manual_seed(0)
    drive = a_drive().to(meta)
    ends, rows = random_windows(drive, 4, generator)
    losses = imitation_loss(network, drive, ends, rows, generator)
    losses["loss"].backward()
    assert all(value.device.type == "meta" for value in losses.values())
    assert sum(p.grad is not None for p in network.parameters()) > 5
    # The check checks: a drive elsewhere is refused.
    with pytest.raises(RuntimeError, match="device"):
        window_batch(network, a_drive(), *random_windows(a_drive(), 4, generator))


def test_random_windows_are_the_same_on_every_device() -> None:
    found = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        found.append(random_windows(a_drive(), 5, generator))
    assert torch.equal(found[0][0], found[1][0])
    steps, rows = found[0]
    assert steps.max() < 60
    assert rows.max() < 3


def test_training_says_where_it_learned(tmp_path: Path) -> None:
    config = ImitationConfig(**TINY, device="cpu")  # type: ignore[arg-type]
    policy = train_imitation(config, tmp_path)
    assert {p.device.type for p in policy.parameters()} == {"cpu"}
    again = load_policy(tmp_path / "policy_model.pth")
    np.testing.assert_array_equal(again.reduce.weight.detach(), policy.reduce.weight.detach())
    assert torch.load(tmp_path / "last.pt", weights_only=True)["config"]["device"] == "cpu"


@NO_GPU
@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "device='cuda', but torch finds no CUDA GPU; use device=auto or cpu"),
        ("gpu", "device='gpu' is unknown; use auto, cpu or cuda"),
    ],
)
def test_a_missing_device_is_one_line_and_nothing_is_driven(
    tmp_path: Path, device: str, message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        train_policynet.main([f"device={device}", f"output={tmp_path / 'run'}"])
    assert str(stopped.value) == f"steerlab train-policynet: {message}"
    with pytest.raises(SystemExit, match=device):
        train_policynet.main(["recipe=ppo", f"device={device}", f"output={tmp_path / 'ppo'}"])
    assert not list(tmp_path.glob("*/last.pt"))
    with pytest.raises(InputError, match=device):
        train_imitation(ImitationConfig(**TINY, device=device), tmp_path)  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_learns_what_a_cpu_learns(tmp_path: Path) -> None:
    policies = [
        train_imitation(ImitationConfig(**TINY, device=device), tmp_path / device)  # type: ignore[arg-type]
        for device in ("cpu", "cuda")
    ]
    for cpu, gpu in zip(*(p.parameters() for p in policies), strict=True):
        torch.testing.assert_close(cpu, gpu.cpu(), rtol=1e-3, atol=1e-3)
