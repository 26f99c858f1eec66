"""The checkpoint of a driving pair: half precision, and the pair that comes with the package."""

from pathlib import Path

import numpy as np
import torch

from steerlab.agents.checkpoint import load_checkpoint
from steerlab.agents.driving import (
    SHIPPED,
    checkpoint_path,
    load_driving,
    load_vision,
    save_driving,
    save_half,
    vision_part,
)
from steerlab.agents.drivingpolicy.checkpoint import load_driving_policy, policy_part
from steerlab.agents.drivingpolicy.network import DrivingPolicy, PolicyDesign
from steerlab.agents.visionnet.network import VisionNet
from steerlab.envs.carla_driver.env import CarlaDriverVectorEnv
from steerlab.openpilot.contracts import DESIRES


def test_half_precision_halves_the_file_and_loads_like_any_other(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vision = VisionNet("tiny").eval()
    policy = DrivingPolicy("openpilot-0.10.0", PolicyDesign(16, 16, 16)).eval()
    told = {"stage": "policy", "epoch": 3}
    whole = save_driving(tmp_path / "whole.pt", vision_part(vision), policy_part(policy), told)
    half = save_half(whole, tmp_path / "half.pt")
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    assert load_driving(half)["told"] == told
    loaded = load_vision(half).state_dict()
    for name, values in vision.state_dict().items():
        assert loaded[name].dtype == values.dtype
        torch.testing.assert_close(loaded[name], values, rtol=1e-3, atol=1e-6)
    again = load_driving_policy(half).state_dict()
    torch.testing.assert_close(again, policy.state_dict(), rtol=1e-3, atol=1e-6)


def test_the_pair_of_the_package_has_a_card_and_tells_no_folder() -> None:
    assert checkpoint_path("steerlab") == SHIPPED
    assert checkpoint_path("other.pt") == Path("other.pt")
    assert SHIPPED.stat().st_size < 8e6
    card = SHIPPED.with_suffix(".md").read_text("utf-8")
    assert "must not steer a car" in card
    assert load_checkpoint(SHIPPED)["settings"] == {}  # where paths of a run would be
    assert b"/home/" not in SHIPPED.read_bytes()
    assert load_vision("steerlab").contract.id == load_driving_policy("steerlab").contract.id
    assert load_driving("steerlab")["told"]["stage"] in ("policy", "dagger")


def test_the_pair_of_the_package_follows_a_desire() -> None:
    """On a motorway it steers left where a change to the left was announced a second ago, and right."""
    vision, policy = load_vision("steerlab"), load_driving_policy("steerlab")
    env = CarlaDriverVectorEnv(1, scenario="highway_follow", traffic=0, threads=1)
    env.reset(seed=3)
    pairs = [torch.as_tensor(np.concatenate([p, p])[None]) for p in env.planes(0)]
    with torch.no_grad():
        window = vision.features(*pairs)[:, None].repeat(2, 25, 1)
        desire = torch.zeros(2, 25, 8)
        for row, name in enumerate(("laneChangeLeft", "laneChangeRight")):
            desire[row, -6, DESIRES.index(name)] = 1.0
        traffic, car = torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[25.0, 0.3]] * 2)
        outputs = policy.predict(window, desire, traffic, car, torch.ones(2, 1))
    left, right = (outputs.near.curvature * 25.0**2).tolist()
    assert right - left > 0.3  # m/s^2
