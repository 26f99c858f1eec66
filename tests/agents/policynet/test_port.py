"""A policy in the terms of another release says there what it would have said."""

import numpy as np
import pytest
import torch

from steerlab.agents.policynet.features import encode, speed_and_delay
from steerlab.agents.policynet.model import PolicyNet, PolicySize
from steerlab.agents.policynet.port import PortedPolicy
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.observation import LAYOUT
from steerlab.errors import InputError
from steerlab.openpilot.contracts import contract
from steerlab.openpilot.engines import Network, TorchEngine
from steerlab.openpilot.in_graph import Packed
from steerlab.openpilot.runner import Runner

ALL = ("openpilot-0.10.0", "sunnypilot-2025-08", "openpilot-0.10.1", "openpilot-0.11.0")


def net(id: str, seed: int = 0) -> PolicyNet:
    torch.manual_seed(seed)
    network = PolicyNet(id, PolicySize(16, 16, 16)).eval()
    with torch.no_grad():
        network.read.weight *= 0.1
        network.heads.bias[:2] = torch.tensor([0.4, 0.7])  # a command that is not nothing
    return network


def test_speed_and_delay_are_what_the_encoder_was_told() -> None:
    env = KinematicDriverVectorEnv(5)
    observation, _ = env.reset(seed=3)
    speed, delay = speed_and_delay(torch.as_tensor(encode(observation)))
    np.testing.assert_allclose(speed, observation[:, LAYOUT["speed"]][:, 0].clip(min=0), rtol=1e-5)
    np.testing.assert_allclose(delay, observation[:, LAYOUT["lat_delay"]][:, 0], rtol=1e-5)


@pytest.mark.parametrize("source", ALL)
@pytest.mark.parametrize("target", [*ALL, "openpilot-supercombo-2026-07"])
def test_the_target_commands_what_the_network_says(source: str, target: str) -> None:
    """By the target's own rule; written down from what the heads say, not from the plan."""
    if source == target:
        return
    release = contract(target)
    ported = PortedPolicy(net(source), release)
    env = KinematicDriverVectorEnv(3)
    observation, _ = env.reset(seed=8)
    parts = LAYOUT.split(observation)
    features = torch.as_tensor(encode(observation))[:, None].repeat(1, 25, 1)
    delay, speed = parts["lat_delay"][:, 0], parts["speed"][:, 0].clip(min=0.0)
    rule = release.command
    t_lat = delay + rule.lat_smooth_s + rule.extra_delay_s
    t_long = 0.15 + rule.long_smooth_s + rule.extra_delay_s
    named = {
        "desire": torch.zeros(3, 25, 8),
        "traffic_convention": torch.as_tensor(parts["traffic_convention"]),
        "lateral_control_params": torch.as_tensor(np.stack([speed, delay + rule.lat_smooth_s], 1)),
        "action_t": torch.as_tensor(np.stack([t_lat, np.full(3, t_long)], 1)).float(),
    }
    given = {n: v for n, v in named.items() if n in ported.feeds}
    with torch.no_grad():
        said = ported.read(features, given)
        named_outputs = ported.tensors(said)
    if "lateral_control_params" in ported.policy.feeds:
        np.testing.assert_allclose(said.near.speed, speed, rtol=1e-4)
        np.testing.assert_allclose(said.near.t_lateral, np.clip(t_lat, 0.05, 1.0), rtol=1e-4)
    plan = named_outputs["plan"].double().numpy().reshape(3, -1, 33, 15)[:, 0]
    times = 10.0 * (np.arange(33) / 32) ** 2
    for k in range(3):
        v, t = max(float(said.near.speed[k]), 1.0), float(said.near.t_lateral[k])
        late = max(t, rule.stable_delay_s)
        yaw = np.interp(late, times, plan[k, :, 11]) * (t / late)
        curvature = 2 * yaw / (v * t) - plan[k, 0, 14] / v
        np.testing.assert_allclose(curvature, said.near.curvature[k], rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("target", ALL)
def test_it_runs_in_the_targets_runner(target: str) -> None:
    source = "openpilot-0.10.1" if target != "openpilot-0.10.1" else "openpilot-0.10.0"
    ported = PortedPolicy(net(source), contract(target))
    engine = TorchEngine(Packed(ported, ported.model), list(ported.model.inputs))
    runner = Runner(target, Network(engine, ported.model.slices), rows=2)
    rng = np.random.default_rng(0)
    step = runner.step(features=rng.normal(size=(2, 512)).astype(np.float32), v_ego=[10.0, 20.0])
    assert step is not None
    assert step.raw.shape == (2, ported.model.length)
    assert np.isfinite(step.command.curvature).all()


def test_one_plan_of_five_is_the_likeliest_and_five_of_one_are_that_one() -> None:
    one = PortedPolicy(net("openpilot-0.10.0"), contract("openpilot-supercombo-2026-06"))
    rng = np.random.default_rng(1)
    features = torch.as_tensor(rng.normal(size=(4, 25, 512)), dtype=torch.float32)
    named = {
        "desire": torch.zeros(4, 25, 8),
        "traffic_convention": torch.eye(2)[[0, 1, 0, 1]],
        "action_t": torch.full((4, 2), 0.4),
    }
    with torch.no_grad():
        parts = one.read(features, named)._replace(logits=torch.eye(5)[[0, 3, 1, 4]])
        plans, _ = one.policy.plan(parts)
        found = one.tensors(parts)["plan"]
    for k, best in enumerate((0, 3, 1, 4)):
        torch.testing.assert_close(found[k], plans[k, best])
    five = PortedPolicy(net("openpilot-0.10.1"), contract("openpilot-0.10.0"))
    single = five.model.heads["plan"]
    assert (single.hypotheses, five.policy.hypotheses) == (5, 1)
    with torch.no_grad():
        found = five.tensors(five.read(features, named))["plan"]
    assert found.shape == (4, 5, 33, 15)
    torch.testing.assert_close(found[:, 0], found[:, 4])


def test_the_policy_itself_stays_as_it_was() -> None:
    policy = net("openpilot-0.10.0")
    before = {n: v.clone() for n, v in policy.state_dict().items()}
    PortedPolicy(policy, contract("openpilot-0.11.0"))
    assert policy.contract.id == "openpilot-0.10.0"
    assert policy.shape.rule == contract("openpilot-0.10.0").command
    for name, values in policy.state_dict().items():
        torch.testing.assert_close(values, before[name], rtol=0, atol=0)


def test_what_the_features_of_a_vision_network_do_not_tell() -> None:
    policy = net("openpilot-0.10.0")
    policy.features = "vision"
    with pytest.raises(InputError, match=r"fed speed and delay.*train one for openpilot-0\.11\.0"):
        PortedPolicy(policy, contract("openpilot-0.11.0"))
    other = net("openpilot-0.10.1")
    other.features = "vision"
    PortedPolicy(other, contract("openpilot-0.11.0"))
