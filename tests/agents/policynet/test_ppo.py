"""PPO on the window policy: ratio, advantages, critic, rewards; training resumes exactly."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from steerlab.agents.checkpoint import load_checkpoint
from steerlab.agents.policynet import ppo as ppo_module
from steerlab.agents.policynet.losses import plan_error, window_batch
from steerlab.agents.policynet.model import PolicyNet, PolicySize
from steerlab.agents.policynet.ppo import (
    HISTORY,
    Critic,
    PPOConfig,
    advantages,
    counting,
    critic_inputs,
    moves,
    policy_losses,
    train_ppo,
    true_state,
)
from steerlab.agents.policynet.rollout import FRAME, BehaviorMix, Rollout, collect
from steerlab.agents.policynet.train import ImitationConfig, train_imitation
from steerlab.agents.recurrent_ppo.train import make_driver_env
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.observation import LAYOUT
from steerlab.errors import InputError

SMALL = ImitationConfig(reduced=8, hidden=8, trunk=8, total_steps=3 * 4 * 40, film=0)
PPO = PPOConfig(
    num_envs=4, steps=40, epochs=3.0, batch_size=8, critic_first=1, critic_epochs=1, alpha=0.2,
    learning_rate=1e-3, target_kl=10.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def network() -> PolicyNet:
    torch.manual_seed(0)
    return PolicyNet("openpilot-0.10.0", PolicySize(8, 8, 8))


@pytest.fixture(scope="module")
def drive(network: PolicyNet) -> Rollout:
    """Sixteen rows that drive 130 steps with exploration; many episodes end."""
    env = make_driver_env(16, 130, "Disabled", alpha=1.0)
    mixture = BehaviorMix(0.0, 1.0, PPO.lateral, PPO.pedal, (PPO.keep, PPO.keep))
    return collect(network, env, None, 130, 3, mixture, watch=true_state)


def test_the_ratio_is_one_before_the_first_step(network: PolicyNet, drive: Rollout) -> None:
    ends, rows = torch.tensor([129, 100, 20, 5]), torch.arange(4)
    advantage = torch.randn(drive.rewards.shape, generator=torch.Generator().manual_seed(0))
    seen, old = (
        window_batch(network, drive, ends, rows),
        window_batch(copy.deepcopy(network), drive, ends, rows),
    )
    found = policy_losses(seen, old, drive, advantage, PPO)
    assert found["kl"].item() == found["clipped"].item() == 0.0
    who = rows[:, None].expand_as(seen.at)
    mask = counting(seen, drive)
    expected = -(advantage[seen.at, who] * mask).sum() / mask.sum()
    assert found["policy"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_ratio_is_that_of_the_densities(network: PolicyNet, drive: Rollout) -> None:
    """With other weights: the same number as from two normal densities of the executed command."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.heads.bias[:2] += torch.tensor([0.02, 0.05])
    ends, rows = torch.tensor([129, 60]), torch.tensor([1, 2])
    seen, old = window_batch(other, drive, ends, rows), window_batch(network, drive, ends, rows)
    fresh = math.sqrt(1 - PPO.keep**2)
    speed = seen.given["speed"][..., 0].clamp(min=3.0)
    who = rows[:, None].expand_as(seen.at)
    drawn = drive.chance[seen.at, who]
    std = torch.stack(
        [PPO.lateral * fresh / speed**2, torch.full_like(speed, PPO.pedal * fresh)], -1
    )
    asked = torch.stack([old.curvature, old.pedal], -1) + drawn * std
    log = [
        torch.distributions.Normal(torch.stack([x.curvature, x.pedal], -1), std).log_prob(asked)
        for x in (seen, old)
    ]
    expected = (log[0] - log[1]).sum(-1)
    moved = moves(seen, old, PPO)
    assert moved.abs().max() > 0.05
    found = (drawn * moved).sum(-1) - 0.5 * (moved**2).sum(-1)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)


def test_what_is_executed_is_the_plan_and_what_was_drawn(
    network: PolicyNet, drive: Rollout
) -> None:
    """The command that is kept, less the disturbance rebuilt from ``chance``, is the network's."""
    noise, fresh = torch.zeros(16, 2), math.sqrt(1 - PPO.keep**2)
    for step in range(20):
        noise = PPO.keep * noise + fresh * drive.chance[step]
    given = FRAME.split(drive.frames[19])
    speed = given["speed"][:, 0].clamp(min=3.0)
    rows = torch.arange(16)
    alive = drive.first[19] == 0
    # Up to step 19 windows hold frames 3, 7, 11, 15, 19: the whole history that the rollout had.
    seen = window_batch(network, drive, torch.full((16,), 19), rows)
    curvature = given["wanted"][:, 0] - PPO.lateral * noise[:, 0] / speed**2
    pedal = given["wanted"][:, 1] - PPO.pedal * noise[:, 1]
    assert alive.sum() > 8
    for found, expected in ((seen.curvature, curvature), (seen.pedal, pedal)):
        torch.testing.assert_close(found[alive, -1], expected[alive], atol=2e-3, rtol=2e-3)


def test_only_frames_with_history_count(network: PolicyNet, drive: Rollout) -> None:
    ends, rows = torch.tensor([129, 30]), torch.tensor([0, 0])
    fresh = Rollout(drive.features, drive.frames, torch.zeros_like(drive.first), drive.last)
    late, early = counting(window_batch(network, fresh, ends, rows), fresh)
    assert late.tolist() == [False] * (HISTORY - 1) + [True] * (25 - HISTORY + 1)
    # The episode began within the second window: all its frames have all the history there is.
    assert early.tolist() == [False] * 17 + [True] * 8


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), gamma=st.sampled_from([0.9, 1.0]))
def test_advantages(seed: int, gamma: float) -> None:
    """Decay 1: what comes until the end of the episode, less the value; decay 0: one step."""
    rng = torch.Generator().manual_seed(seed)
    rewards, values = torch.rand(9, 3, generator=rng), torch.randn(10, 3, generator=rng)
    over = torch.rand(9, 3, generator=rng) < 0.2
    to_go = values[-1]
    for t in range(8, -1, -1):
        to_go = rewards[t] + gamma * torch.where(over[t], torch.zeros(3), to_go)
        coming = torch.where(over[t], torch.zeros(3), values[t + 1])
        one, whole = (advantages(rewards, values, over, gamma, decay)[t] for decay in (0.0, 1.0))
        torch.testing.assert_close(one, rewards[t] + gamma * coming - values[t])
        torch.testing.assert_close(whole, to_go - values[t], atol=1e-4, rtol=1e-4)


def test_the_critic(drive: Rollout) -> None:
    inputs = critic_inputs(KinematicDriverVectorEnv(1))
    assert drive.critic_obs.shape == (131, 16, inputs)
    critic = Critic(inputs)
    critic.normalize_by(drive.critic_obs[:50])
    critic.normalize_by(drive.critic_obs[50:])
    whole = drive.critic_obs.flatten(0, 1).double()
    torch.testing.assert_close(critic.mean, whole.mean(0))
    torch.testing.assert_close(critic.var, whole.var(0, unbiased=False), rtol=1e-6, atol=1e-9)
    values = critic(drive.critic_obs)
    assert (values[-1][drive.dones[-1]] != 0).all()  # a fresh episode has begun there
    ended = drive.critic_obs.clone()
    ended[..., -1] = 0.0
    assert (critic(ended) == 0).all()


def test_the_budget_reaches_the_critic_and_not_the_policy(drive: Rollout) -> None:
    budget, left = drive.critic_obs[..., -2], drive.critic_obs[..., -1]
    torch.testing.assert_close(budget[0], torch.full((16,), 2.0))
    torch.testing.assert_close(left[:3, 0], torch.tensor([1.0, 129 / 130, 128 / 130]))
    assert drive.features.shape[-1] == 512
    assert LAYOUT.size == 215  # what the features are made of: the task's own observation


def test_what_is_paid_is_the_budget_that_is_used_up(network: PolicyNet) -> None:
    """Risk-averse: an episode that reaches the threshold has no more reward, and b - R is missing."""
    env = make_driver_env(
        8, 60, "Disabled", alpha=0.1, threshold=3.0, per_alpha=False, first_only=True
    )
    drive = collect(network, env, None, 60, 3, BehaviorMix(0.0, 0.0), watch=true_state)
    returns = list(env.risk.returns)
    first = drive.first == 0
    total = (drive.rewards * first).sum(0)
    assert len(returns) == 8  # first episodes only, however many followed
    expected = sorted(3.0 - max(3.0 - r, 0.0) for r in returns)
    np.testing.assert_allclose(sorted(total.tolist()), expected, atol=1e-4)


@pytest.mark.slow
def test_training_resumes_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_ppo(SMALL, PPO, tmp_path / "whole")
    original, calls = ppo_module.collect, 0

    def stop_at_the_third(*arguments: object, **more: object) -> Rollout:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ppo_module, "collect", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        train_ppo(SMALL, PPO, tmp_path / "parts")
    monkeypatch.setattr(ppo_module, "collect", original)
    resumed = train_ppo(SMALL, PPO, tmp_path / "parts")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    states = [load_checkpoint(tmp_path / f / "last.pt") for f in ("whole", "parts")]
    assert len(states[0]["risk"]["returns"]) >= 12
    for name in ("risk", "step"):
        assert states[0][name] == states[1][name]
    for name in ("model", "average", "critic"):
        for key, values in states[0][name].items():
            assert torch.equal(values, states[1][name][key])
    lines = [(tmp_path / f / "metrics.jsonl").read_text() for f in ("whole", "parts")]
    assert lines[0] == lines[1]
    for word in (
        "drive/return_cvar",
        "drive/boundary",
        "plan/error_2s",
        "risk/threshold",
        "ppo/kl",
    ):
        assert word in lines[0]


@pytest.mark.slow
def test_a_better_command_is_learned(network: PolicyNet, drive: Rollout) -> None:
    """With advantages that are the drawn steering itself, the policy comes to steer to that side."""
    learner = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(learner.parameters(), 1e-3)
    average = torch.optim.swa_utils.AveragedModel(learner)
    config = replace(PPO, epochs=30.0, target_kl=0.5, clip=10.0)
    generator = torch.Generator().manual_seed(0)
    ppo_module._improve(
        learner, average, optimizer, drive, drive.chance[..., 0], config, (1e-3, True), generator
    )
    ends, rows = torch.full((16,), 120), torch.arange(16)
    moved = moves(
        window_batch(learner, drive, ends, rows), window_batch(network, drive, ends, rows), config
    )
    assert moved[..., 0].mean() > 0.1
    assert moved[..., 0].mean() > 3 * moved[..., 1].mean().abs()


def test_after_dagger_with_a_film(tmp_path: Path) -> None:
    first = replace(SMALL, num_envs=4, steps=30, total_steps=120, batch_size=4, film=10)
    train_imitation(first, tmp_path / "first")
    start = tmp_path / "first" / "policy_model.pth"
    second = replace(SMALL, total_steps=320)
    network = train_ppo(second, replace(PPO, learning_rate=1e-5), tmp_path / "second", start)
    began = load_checkpoint(start)["model"]
    moved = [float((v - began[n]).abs().max()) for n, v in network.state_dict().items()]
    assert 0 < max(moved) < 1e-3
    board = EventAccumulator(str(tmp_path / "first"), size_guidance={"images": 0})
    board.Reload()
    (film,) = board.Images("drive/film")
    assert film.encoded_image_string.startswith(b"GIF8")
    with pytest.raises(InputError, match=r"trained for openpilot-0\.10\.0"):
        train_ppo(replace(second, contract="openpilot-0.11.0"), PPO, tmp_path / "third", start)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 400}, "less than one iteration"),
        ({"keep": 1.0}, r"ppo\.keep=1\.0"),
        ({"lateral": math.nan}, r"ppo\.lateral"),
        ({"alpha": 0.0}, "alpha=0"),
        ({"gae_lambda": 2.0}, "gae_lambda"),
        ({"num_envs": 0}, r"ppo\.num_envs"),
        ({"critic_first": 3}, "none of 3 iterations"),
    ],
)
def test_bad_options(tmp_path: Path, change: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        train_ppo(SMALL, replace(PPO, **change), tmp_path)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_plan_error_of_a_plan_that_is_driven(network: PolicyNet, drive: Rollout) -> None:
    found = plan_error(network, drive, torch.Generator().manual_seed(0))
    assert 0 < found["error_2s"] < found["error_5s"] or found["error_5s"] == 0.0
