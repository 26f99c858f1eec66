"""The network: a function of the window alone, the same in training, in memory and in the runner."""

from typing import Any

import numpy as np
import pytest
import torch

from steerlab.agents.policynet.driver import OpenpilotDriver, frame_driver, torch_driver
from steerlab.agents.policynet.evaluate import drive
from steerlab.agents.policynet.features import encode
from steerlab.agents.policynet.model import (
    Memory,
    PolicyNet,
    PolicySize,
    Supercombo,
    plan_command,
    policy_from,
)
from steerlab.agents.policynet.rollout import (
    BehaviorMix,
    collect,
)
from steerlab.agents.policynet.train import ImitationConfig, preview_teacher
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.observation import LAYOUT
from steerlab.errors import InputError
from steerlab.exporters.sample import SampleNetwork
from steerlab.openpilot.contracts import contract
from steerlab.openpilot.engines import Network, TorchEngine
from steerlab.openpilot.in_graph import Packed
from steerlab.openpilot.outputs import pack
from steerlab.openpilot.probe import example_inputs

SPLIT = ("openpilot-0.10.0", "sunnypilot-2025-08", "openpilot-0.10.1", "openpilot-0.11.0")
SMALL = PolicySize(16, 12, 16)


def net(id: str = "openpilot-0.10.0", seed: int = 0) -> PolicyNet:
    torch.manual_seed(seed)
    return PolicyNet(id, SMALL).eval()


def inputs(network: PolicyNet, count: int = 3) -> list[torch.Tensor]:
    found = example_inputs(network.model, count)
    return [torch.as_tensor(v).reshape(count, *i.shape[1:])
            for v, i in zip(found.values(), network.model.inputs.values(), strict=True)]  # fmt: skip


@pytest.mark.parametrize("id", SPLIT)
def test_every_split_contract_gets_its_tensors(id: str) -> None:
    network = net(id)
    flat = pack(network.model, network(*inputs(network)))
    assert flat.shape == (3, network.model.length)
    assert flat.isfinite().all()


def test_a_supercombo_is_vision_and_policy() -> None:
    policy = net("openpilot-supercombo-2026-06")
    vision = SampleNetwork(contract("openpilot-0.11.0").model("driving_vision"))
    whole = Supercombo(vision, policy)
    given = [
        torch.as_tensor(v[:1]).reshape(i.shape)
        for v, i in zip(
            example_inputs(policy.model).values(), policy.model.inputs.values(), strict=True
        )
    ]
    with torch.no_grad():
        flat = pack(policy.model, whole(*given))
        given[4] = given[4] + 0.1
        other = pack(policy.model, whole(*given))
    assert flat.shape == (1, policy.model.length)
    assert flat.isfinite().all()
    place = policy.model.slices["plan"]
    assert not torch.equal(flat[:, place], other[:, place])  # action_t is used
    with pytest.raises(InputError, match="use Supercombo"):
        policy(*given)


def test_empty_frames_change_nothing() -> None:
    """A window that begins with k empty frames is worth the 25 - k others."""
    network = net()
    features, desire = torch.randn(2, 25, 512), torch.zeros(2, 25, 8)
    features[:, :10] = 0.0
    desire[:, 3, 1] = 1.0
    with torch.no_grad():
        whole = network.frames(features, desire).readings
        part = network.windows(network.frames(features[:, 10:], desire[:, 10:]).readings)[:, -1]
    torch.testing.assert_close(whole, part, rtol=0, atol=1e-6)
    assert whole.abs().max() > 0.01


def test_memory_is_the_window() -> None:
    network, n = net(), 3
    rng = np.random.default_rng(0)
    memory = Memory(network, n)
    features = torch.as_tensor(rng.normal(size=(130, n, 512)), dtype=torch.float32)
    desire = torch.as_tensor(rng.random((130, n, 8)) < 0.05).float()
    traffic, car = torch.eye(2)[[0, 1, 0]], torch.tensor([[10.0, 0.3], [20.0, 0.4], [3.0, 0.5]])
    for t in range(130):
        parts = memory.step(features[t], desire[t], traffic, car)
        if t == 40:
            memory.reset(torch.tensor([False, True, False]))
    at = np.arange(33, 130, 4)
    window = [torch.stack([f[t] for t in at], 1) for f in (features, desire)]
    window[0][1, at <= 40] = 0.0
    given = {"desire": window[1], "traffic_convention": traffic, "lateral_control_params": car,
             "prev_desired_curv": torch.zeros(n, 25, 1), "features_buffer": window[0]}  # fmt: skip
    with torch.no_grad():
        whole = network(*(given[name] for name in network.model.inputs))
        found = network.tensors(parts)
    for name, values in whole.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("id", ["openpilot-0.10.0", "openpilot-0.11.0"])
def test_training_drives_as_the_runner_does(id: str) -> None:
    """The same roads, once through the rollout of the training, once through openpilot's runner."""
    network = net(id)
    with torch.no_grad():
        network.heads.bias[:2] = torch.tensor([0.02, 0.1])
    n, steps = 4, 60
    env = KinematicDriverVectorEnv(n, autoreset_mode="Disabled")
    config = ImitationConfig(contract=id)
    driven = collect(network, env, preview_teacher(config)(env), steps, 5, BehaviorMix(0.0, 0.0))
    ended = driven.first.max().item() > 0
    env = KinematicDriverVectorEnv(n)
    engine = TorchEngine(Packed(network, network.model), list(network.model.inputs))
    driver = OpenpilotDriver(env, network.contract, Network(engine, network.model.slices))
    observation, info = env.reset(seed=5)
    driver.reset(observation, info)
    from steerlab.agents.policynet.rollout import FRAME

    for step in range(steps):
        if ended and driven.first[step].max() > 0:
            break
        np.testing.assert_allclose(
            FRAME.split(driven.frames[step].numpy())["speed"][:, 0], info["speed"], atol=1e-3
        )
        np.testing.assert_allclose(
            FRAME.split(driven.frames[step].numpy())["yaw_rate"][:, 0],
            info["speed"] * info["curvature"], atol=1e-4,
        )  # fmt: skip
        observation, *_, info = env.step(driver(observation, info))
    assert step > 20


def test_without_a_runner_the_same_is_driven() -> None:
    network = net()
    with torch.no_grad():
        network.heads.bias[:2] = torch.tensor([0.02, 0.1])
    makers = (torch_driver(network), frame_driver(network))
    a, b = (drive(make, range(5, 9), max_episode_steps=60) for make in makers)
    for name in ("steps", "violation"):
        np.testing.assert_array_equal(a.end[name], b.end[name])
    for name in ("s", "base_return"):
        np.testing.assert_allclose(a.end[name], b.end[name], rtol=1e-4)
    np.testing.assert_allclose(a.offset, b.offset, atol=1e-4)


def test_the_command_comes_from_the_plan() -> None:
    network = net()
    memory = Memory(network, 2)
    parts = memory.step(
        torch.randn(2, 512),
        torch.zeros(2, 8),
        torch.eye(2),
        torch.tensor([[12.0, 0.3], [5.0, 0.6]]),
    )
    given: dict[str, Any] = {
        "car": torch.tensor([[12.0, 0.3], [5.0, 0.6]]),
        "t_lateral": torch.tensor([0.35, 0.65]),
        "t_longitudinal": torch.tensor([0.5, 0.5]),
    }
    curvature, pedal = plan_command(network, parts, given)
    torch.testing.assert_close(curvature, parts.near.curvature, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(pedal, parts.near.pedal, rtol=1e-3, atol=1e-3)


def test_rebuilt_from_its_description() -> None:
    network = net("openpilot-0.10.1", seed=3)
    again = policy_from(network.describe(), network.state_dict())
    given = inputs(network)
    with torch.no_grad():
        for name, values in network(*given).items():
            torch.testing.assert_close(again(*given)[name], values, rtol=0, atol=0)


def test_features_keep_what_was_seen() -> None:
    env = KinematicDriverVectorEnv(6)
    observation, _ = env.reset(seed=1)
    found = encode(observation)
    assert found.shape == (6, 512)
    assert found.dtype == np.float32
    assert np.abs(found).max() < 60
    np.testing.assert_array_equal(found, encode(observation.copy()))
    # The first 202 are the scaled observation without desire, traffic, actions and acceleration.
    np.testing.assert_allclose(found[:, 0] * 15, observation[:, LAYOUT["speed"]][:, 0], rtol=1e-6)
    rank = np.linalg.matrix_rank(found[:, :202] - found[:1, :202])
    assert rank == 5
    assert (
        contract("openpilot-0.10.0").model("driving_policy").inputs["features_buffer"].shape[-1]
        == 512
    )
