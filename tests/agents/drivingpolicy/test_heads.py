"""Every plan head: a function of what is seen, hypotheses in the plan's own shape, anchors that cover modes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from steerlab.agents.drivingpolicy.anchors import anchors_of
from steerlab.agents.drivingpolicy.data import Windows
from steerlab.agents.drivingpolicy.heads.anchored import Anchored
from steerlab.agents.drivingpolicy.losses import (
    ASKED,
    BRAKING,
    TOO_FAST,
    policy_loss,
    read_command,
)
from steerlab.agents.drivingpolicy.network import Diffusion, DrivingPolicy, PolicyDesign
from steerlab.agents.drivingpolicy.training import PolicyTraining, new_policy
from steerlab.agents.supervised import Batch
from steerlab.errors import InputError
from steerlab.openpilot.contracts import T_IDXS, contract
from steerlab.openpilot.plan import FREE, Near, PlanShape
from tests.agents.drivingpolicy.episodes import invented

HEADS = [("regression", 0), ("mdn", 0), ("anchored", 0), ("anchored", 2), ("flow", 4)]


def small(head: str, steps: int, encoder: str = "gru") -> PolicyDesign:
    return PolicyDesign(16, 16, 16, encoder, head, Diffusion(steps))


@pytest.fixture(scope="module")
def windows() -> Windows:
    return Windows([invented(seed) for seed in range(4)])


def test_what_a_plan_was_made_of_is_read_from_it() -> None:
    shape = PlanShape(contract("openpilot-0.10.0").command)
    rng = torch.Generator().manual_seed(0)
    near = Near(*(torch.rand(6, generator=rng) + 0.1 for _ in range(7)))
    late = 0.9 * torch.rand(6, generator=rng) + 0.1  # s
    near = near._replace(
        speed=near.speed * 20, yaw_rate=near.yaw_rate / 20, curvature=near.curvature / 100,
        t_lateral=late, t_longitudinal=late,
    )  # fmt: skip
    bends, pedals = (torch.randn(6, 3, FREE, generator=rng) * scale for scale in (0.1, 1.0))
    found = shape.read(shape(near, bends, pedals))
    torch.testing.assert_close(found[0], bends, atol=2e-5, rtol=0)
    torch.testing.assert_close(found[1], pedals, atol=2e-5, rtol=0)


def test_anchors_are_the_middles_of_what_was_driven() -> None:
    rng = np.random.default_rng(0)
    middles = np.array([[5.0, 0.0], [-5.0, 0.0], [0.0, 9.0]])
    counts = (300, 200, 100)
    points = [m + 0.1 * rng.normal(size=(n, 2)) for m, n in zip(middles, counts, strict=True)]
    np.testing.assert_allclose(anchors_of(np.concatenate(points), 3, 0), middles, atol=0.05)
    with pytest.raises(InputError, match="too few"):
        anchors_of(np.zeros((2, 3)), 5, 0)


@pytest.mark.parametrize(("head", "steps"), HEADS)
def test_a_head_is_a_function_and_its_plans_are_integrals(
    head: str, steps: int, windows: Windows
) -> None:
    torch.manual_seed(0)
    network = DrivingPolicy("openpilot-0.10.0", small(head, steps)).eval()
    network.plan_head.adapt(np.random.default_rng(1).normal(0, 0.1, (50, 2 * FREE)), 0)
    batch = windows[torch.arange(6)]
    named = {
        "desire": batch["desire"], "traffic_convention": batch["traffic"],
        "lateral_control_params": batch["car"],
    }  # fmt: skip
    with torch.no_grad():
        once, twice = (network.tensors(network.read(batch["features"], named)) for _ in "ab")
    assert once["plan"].shape == (6, 5, 33, 15)
    assert once["plan_logits"].shape == (6, 5, 1)
    for name, values in once.items():
        assert torch.equal(values, twice[name]), name
    plan = once["plan"].double().numpy()
    steps_s = np.diff(T_IDXS)
    for place, rate in ((0, 3), (1, 4), (11, 14)):  # x from vx, y from vy, yaw from its rate
        added = np.cumsum(0.5 * (plan[..., 1:, rate] + plan[..., :-1, rate]) * steps_s, axis=-1)
        np.testing.assert_allclose(plan[..., 1:, place], added, atol=0.02 * np.abs(added).max())


def test_denoising_of_no_steps_asks_once_of_the_anchors() -> None:
    torch.manual_seed(0)
    plain, refined = (Anchored(8, steps) for steps in (0, 4))
    refined.load_state_dict(plain.state_dict())
    seen = torch.randn(3, 8)
    assert not torch.equal(plain(seen).knots, refined(seen).knots)
    with torch.no_grad():  # a network that says nothing leaves every anchor where it is
        for head in (plain, refined):
            for values in head.parameters():
                values.zero_()
            head.anchors.copy_(torch.arange(70.0).reshape(5, 14))
    expected = torch.arange(70.0).reshape(1, 5, 14).expand(3, -1, -1)
    torch.testing.assert_close(plain(seen).knots, expected)
    torch.testing.assert_close(refined(seen).knots, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_signal_and_noise_add_up(schedule: str) -> None:
    head = Anchored(8, 2, schedule)
    signal, noise = head.amounts(torch.linspace(0, 1, 7))
    torch.testing.assert_close(signal**2 + noise**2, torch.ones(7))
    assert (signal[0], noise[-1]) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "steps"), [("mdn", 0), ("anchored", 2), ("flow", 4)])
def test_a_head_learns(head: str, steps: int, windows: Windows) -> None:
    """The way ahead bends left or right by chance: the hypotheses of those with several cover both."""
    network = new_policy(PolicyTraining(design=small(head, steps)), windows)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(0)
    first = last = 0.0
    for _ in range(60):
        rows = torch.randint(len(windows), (32,), generator=generator)
        losses = policy_loss(network, windows[rows], generator)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        name = "flow" if head == "flow" else "plan"
        first, last = (first or losses[name].item()), losses[name].item()
    assert last < first - 0.2
    batch = windows[torch.arange(64)]
    outputs = network.predict(batch["features"], batch["desire"], batch["traffic"])
    knots = network.plan_head.real(network.plan_head(outputs.seen).knots)[:, :, 2]
    wanted = network.shape.read(batch["plan"])[0][:, 2]
    away = (knots - wanted[:, None]).abs()  # of 0.1 rad/s
    assert away.amin(1).mean() < 0.05 if head != "mdn" else away.amin(1).mean() < 0.09


@pytest.mark.parametrize("steps", [0, 2])
def test_the_likeliest_hypothesis_is_the_one_that_is_seen(steps: int, windows: Windows) -> None:
    """Which way the road bends is seen: the hypothesis that the network takes bends that way."""
    network = new_policy(PolicyTraining(design=small("anchored", steps)), windows)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(280):
        batch = told_sides(
            network, windows, torch.randint(len(windows), (32,), generator=generator)
        )
        losses = policy_loss(network, batch, generator)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    batch = told_sides(network, windows, torch.arange(len(windows)))
    with torch.no_grad():
        outputs = network.predict(batch["features"], batch["desire"], batch["traffic"])
        found = network.plan_head(outputs.seen)
    rows = torch.arange(len(windows))
    bend = network.plan_head.real(found.knots)[rows, found.logits.argmax(1), 2]
    assert (bend * network.shape.read(batch["plan"])[0][:, 2] > 0).float().mean() > 0.95


def told_sides(network: DrivingPolicy, windows: Windows, rows: torch.Tensor) -> Batch:
    """Return examples whose last features tell which way the road bends."""
    batch = windows[rows]
    batch["features"][:, -1, 3] = 20.0 * network.shape.read(batch["plan"])[0][:, 2]
    return batch


@pytest.mark.parametrize("encoder", ["gru", "attention"])
def test_a_pulse_of_seconds_ago_is_soon_followed(encoder: str, windows: Windows) -> None:
    """The pictures do not tell that the driver has asked for a lane change: the pulse alone does."""
    network = new_policy(PolicyTraining(design=small("regression", 0, encoder)), windows)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(0)

    def asked() -> dict[str, torch.Tensor]:
        batch = windows[torch.randint(len(windows), (64,), generator=generator)]
        features = torch.randn(batch["features"].shape, generator=generator)
        age = torch.randint(25, (64,), generator=generator)
        side = torch.randint(2, (64,), generator=generator)
        desire = torch.zeros_like(batch["desire"])
        desire[torch.arange(64), 24 - age, 3 + side] = 1.0
        answer = 0.004 * (2.0 * side - 1.0) * (age > 5) * (age < 20)
        command = torch.stack([answer, torch.zeros(64)], 1)
        return batch | {"features": features, "desire": desire, "command": command}

    for _ in range(120):
        losses = policy_loss(network, asked(), generator)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    batch = asked()
    with torch.no_grad():
        outputs = network.predict(
            batch["features"], batch["desire"], batch["traffic"], batch["car"], torch.ones(64, 1)
        )
        said, _ = read_command(network, outputs.near, batch["car"])
    right = (said * batch["command"][:, 0])[batch["command"][:, 0] != 0.0] > 0.0
    assert right.float().mean() > 0.9


def test_steering_weighs_more_while_a_desire_is_remembered(windows: Windows) -> None:
    network = new_policy(PolicyTraining(design=small("regression", 0)), windows)
    batch = {name: values[:8] for name, values in windows[torch.arange(8)].items()}
    with torch.no_grad():  # so that the desire changes the weight alone
        network.wish.weight.zero_()
        network.encoder.get_parameter("input_gates.weight")[:, -8:] = 0.0
    desire = torch.zeros_like(batch["desire"])
    desire[:, -1, 3] = 1.0
    plain, heavy = (
        policy_loss(network, batch | {"desire": given}, torch.Generator().manual_seed(0))["steer"]
        for given in (torch.zeros_like(desire), desire)
    )
    assert float((heavy / plain).detach()) == pytest.approx(1.0 + ASKED)


def test_braking_too_little_costs_more_than_too_much(windows: Windows) -> None:
    network = new_policy(PolicyTraining(design=small("regression", 0)), windows)
    batch = {name: values[:8] for name, values in windows[torch.arange(8)].items()}

    def pedal(wanted: float) -> float:
        command = torch.full_like(batch["command"], wanted)
        losses = policy_loss(
            network, batch | {"command": command}, torch.Generator().manual_seed(0)
        )
        return float(losses["pedal"].detach())

    # Far away the loss is linear, with slope 1 where the network says too little.
    assert pedal(52.0) - pedal(50.0) == pytest.approx(2.0, rel=1e-4)
    said = 50.0 - 1.0 - pedal(50.0)
    for braking in (20.0, 30.0):
        weight = TOO_FAST * (1.0 + BRAKING * braking)
        assert pedal(-braking) == pytest.approx(weight * (said + braking - 1.0), rel=1e-3)


def test_what_cannot_be_is_refused_in_words() -> None:
    for design, words in (
        (small("anchored", 9), r"diffusion.steps=9 must be in 0\.\.8"),
        (small("flow", 0), r"diffusion.steps=0"),
        (small("diffusion", 2), "plan head"),
        (small("mdn", 0, "lstm"), "encoder"),
        (PolicyDesign(reduced=2), "policy.reduced=2"),
        (PolicyDesign(hidden=18, encoder="attention"), "multiple of 4"),
        (PolicyDesign(diffusion=Diffusion(2, "square")), "diffusion.schedule"),
        (PolicyDesign(diffusion=Diffusion(2, "cosine", 0.0)), "diffusion.truncation"),
    ):
        with pytest.raises(InputError, match=words):
            DrivingPolicy("openpilot-0.10.0", design)


def test_a_folder_with_no_shard_is_refused() -> None:
    with pytest.raises(InputError, match="no shard"):
        Windows([])
    seen = invented(0)
    with pytest.raises(InputError, match="features of"):
        Windows([seen._replace(features=seen.features[:-1])])
    assert Path("invented") == seen.shard.path
