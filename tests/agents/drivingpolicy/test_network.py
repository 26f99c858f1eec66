"""The policy says the same to every release, and what it says is what the car would do."""

import math

import numpy as np
import pytest
import torch

from steerlab.agents.drivingpolicy.driver import (
    MixedDriver,
    PairDriver,
    StraightDriver,
    torch_policy,
)
from steerlab.agents.drivingpolicy.network import (
    Diffusion,
    DrivingPolicy,
    PolicyDesign,
    driving_policy_from,
)
from steerlab.agents.visionnet.network import VisionNet
from steerlab.envs.carla_driver.env import CarlaDriverVectorEnv
from steerlab.openpilot.commands import command
from steerlab.openpilot.contracts import contract
from steerlab.openpilot.engines import Network, TorchEngine
from steerlab.openpilot.in_graph import Packed
from steerlab.openpilot.outputs import parse

SPLIT = ("openpilot-0.10.0", "sunnypilot-2025-08", "openpilot-0.10.1", "openpilot-0.11.0")


def policy(head: str = "anchored", encoder: str = "gru") -> DrivingPolicy:
    torch.manual_seed(3)
    network = DrivingPolicy(
        "openpilot-0.10.0", PolicyDesign(16, 16, 16, encoder, head, Diffusion(2))
    )
    with torch.no_grad():
        network.heads.bias[:2] = torch.tensor([0.4, 0.7])  # a command that is not nothing
        network.plan_head.adapt(np.random.default_rng(1).normal(0, 0.1, (50, 14)), 0)
    return network.eval()


def inputs(target: str, rows: int = 3) -> dict[str, torch.Tensor]:
    """Return what is fed, by feed; the car goes 12 m/s and acts after 0.25 s."""
    rule = contract(target).command
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(rows, 25, 512, generator=generator)
    features[:, :9] = 0.0  # a young episode
    return {
        "features": features, "desire": torch.zeros(rows, 25, 8),
        "traffic_convention": torch.tensor([[1.0, 0.0]]).repeat(rows, 1),
        "lateral_control_params": torch.tensor([[12.0, 0.25 + rule.lat_smooth_s]]).repeat(rows, 1),
        "previous_curvature": torch.zeros(rows, 25, 1),
    }  # fmt: skip


@pytest.mark.parametrize("encoder", ["gru", "attention"])
@pytest.mark.parametrize("target", SPLIT)
def test_the_release_commands_what_the_network_says(target: str, encoder: str) -> None:
    network = policy(encoder=encoder).ported(contract(target))
    given = inputs(target)
    with torch.no_grad():
        flat = Packed(network, network.model)(*(given[feed] for feed in network.feeds)).numpy()
        outputs = network.read(given["features"], {feed: given[feed] for feed in network.feeds})
    parsed = parse(network.model.slices, flat)
    speed, late = outputs.near.speed.numpy(), outputs.near.t_lateral.numpy()
    found = command(network.contract.command, parsed, speed, late, network.t_longitudinal)
    np.testing.assert_allclose(found.curvature, outputs.near.curvature, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(found.acceleration, outputs.near.pedal, rtol=1e-3, atol=2e-4)
    if "lateral_control_params" in network.feeds:
        np.testing.assert_allclose(speed, 12.0)
        np.testing.assert_allclose(late, 0.25 + 0.1 + 0.05, rtol=1e-6)


def test_an_empty_queue_is_an_episode_that_has_just_begun() -> None:
    """Nine frames that are not there say nothing, whatever their desire."""
    for encoder in ("gru", "attention"):
        network, given = policy(encoder=encoder), inputs("openpilot-0.10.0")
        other = given | {"desire": given["desire"].clone()}
        other["desire"][:, :9, 3] = 1.0
        with torch.no_grad():
            one, two = (network.tensors(network.read(g["features"], g)) for g in (given, other))
        torch.testing.assert_close(one["plan"], two["plan"])


def test_one_plan_is_the_likeliest_of_five() -> None:
    five, one = policy(), policy().ported(contract("sunnypilot-2025-08"))
    given = inputs("openpilot-0.10.0")
    with torch.no_grad():
        several, single = (n.tensors(n.read(given["features"], given)) for n in (five, one))
    best = several["plan_logits"][..., 0].argmax(1)
    torch.testing.assert_close(single["plan"], several["plan"][torch.arange(3), best])


def test_action_is_the_command() -> None:
    """Lateral acceleration is curvature times the square of the speed; no other number moves the car."""
    network = policy().ported(contract("openpilot-supercombo-2026-07"))
    given = inputs("openpilot-supercombo-2026-07")
    with torch.no_grad():
        outputs = network.read(
            given["features"], {**given, "lateral_control_params": torch.tensor([[20.0, 0.2]] * 3)}
        )
        action = network.tensors(outputs)["action"]
    torch.testing.assert_close(action[:, 0], outputs.near.curvature * 400.0)
    torch.testing.assert_close(action[:, 1], outputs.near.pedal)


def test_a_policy_is_rebuilt_from_its_description() -> None:
    first = policy("flow", "attention")
    second = driving_policy_from(first.describe(), first.state_dict())
    given = inputs("openpilot-0.10.0")
    with torch.no_grad():
        one, two = (n.tensors(n.read(given["features"], given)) for n in (first, second))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def pair() -> tuple[DrivingPolicy, Network]:
    torch.manual_seed(0)
    vision = VisionNet("tiny").eval()
    return policy(), Network(TorchEngine(vision, ["img", "big_img"]), vision.model.slices)


@pytest.mark.slow
def test_a_pair_drives_by_its_pictures(pair: tuple[DrivingPolicy, Network]) -> None:
    network, vision = pair
    env = CarlaDriverVectorEnv(1, scenario="country_road", traffic=0)
    driver = PairDriver(env, network.contract, torch_policy(network), vision)
    seen = []
    for seed in (1, 2):
        observation, info = env.reset(seed=seed)
        driver.reset(observation, info)
        actions = []
        for _ in range(2):
            actions.append(driver(observation, info))
            observation, *_, info = env.step(actions[-1])
        hidden = driver.step.outputs["hidden_state"]  # type: ignore[union-attr]
        assert actions[0].shape == (1, 2)
        seen.append(hidden)
    assert np.abs(seen[0] - seen[1]).max() > 1e-3  # another world


def test_spells_of_the_teacher(pair: tuple[DrivingPolicy, Network]) -> None:
    network, vision = pair
    env = CarlaDriverVectorEnv(1, scenario="country_road", traffic=0)
    observation, info = env.reset(seed=1)
    asked = {}
    for share in (0.0, 1.0):
        driver = PairDriver(env, network.contract, torch_policy(network), vision)
        mixed = MixedDriver(env, driver, share, math.inf, math.inf, [1])
        mixed.reset(observation, info)
        asked[share] = mixed.propose(info, observation)
    teacher = mixed.teacher.propose(info)
    np.testing.assert_array_equal(asked[1.0], teacher)
    assert np.abs(asked[0.0][0] - teacher[0]).max() > 0
    straight = StraightDriver(env)(observation, info)
    assert straight[0, 0] == 0.0


@pytest.mark.parametrize("reason", ["far", "fast"])
def test_the_teacher_takes_over(reason: str, pair: tuple[DrivingPolicy, Network]) -> None:
    network, vision = pair
    env = CarlaDriverVectorEnv(1, scenario="country_road", traffic=0)
    observation, info = env.reset(seed=1)
    driver = PairDriver(env, network.contract, torch_policy(network), vision)
    mixed = MixedDriver(env, driver, 0.0, 0.6, 3.0, [1])
    mixed.reset(observation, info)
    planned = float(env.preview([0.0])["planned_speed"][0, 0])
    taught = []
    for step in range(70):
        now = step == 2
        env.simulator.state.d[0] = 0.7 if reason == "far" and now else -0.5
        info["speed"][0] = planned + (3.5 if reason == "fast" and now else 2.5)
        asked = mixed.propose(info, observation)
        taught.append(bool(asked[0] == mixed.teacher.propose(info)[0]))
    assert taught == [False] * 2 + [True] * 60 + [False] * 8
