"""Exported policies act as ``model.predict`` does."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnx
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings, strategies as st
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from steerlab.errors import InputError
from steerlab.exporters.sb3 import export_sb3
from steerlab.exporters.unrolled_rnn import UnrolledRNN
from steerlab.openpilot.contracts import TINYGRAD_UNSUPPORTED
from steerlab.openpilot.engines import session


class Drift(gym.Env[Any, Any]):
    """Random observations; what the actions do does not matter here."""

    def __init__(self, actions: spaces.Space[Any], observations: spaces.Space[Any]) -> None:
        self.action_space, self.observation_space = actions, observations

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


BOX = spaces.Box(np.array([-0.2, -1.0], np.float32), np.array([0.1, 3.0], np.float32))
SEEN = spaces.Box(-5.0, 5.0, (6,), np.float32)


class BetaHead(Distribution):
    """Independent Beta distributions; the deterministic action is their mean."""

    def __init__(self, low: torch.Tensor, high: torch.Tensor) -> None:
        super().__init__()
        self.low, self.high = low, high

    def proba_distribution_net(self, latent_dim: int, *_: Any) -> nn.Module:
        return nn.Linear(latent_dim, 2 * len(self.low))

    def proba_distribution(self, latent: torch.Tensor) -> "BetaHead":
        self.alpha, self.beta = (1.0 + nn.functional.softplus(latent)).chunk(2, dim=-1)
        return self

    def mode(self) -> torch.Tensor:
        return self.low + (self.high - self.low) * self.alpha / (self.alpha + self.beta)

    def sample(self) -> torch.Tensor:
        share = torch.distributions.Beta(self.alpha, self.beta).sample()
        return self.low + (self.high - self.low) * share

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        share = (actions - self.low) / (self.high - self.low)
        share = share.clamp(1e-5, 1 - 1e-5)
        return torch.distributions.Beta(self.alpha, self.beta).log_prob(share).sum(-1)

    def entropy(self) -> torch.Tensor:
        return torch.distributions.Beta(self.alpha, self.beta).entropy().sum(-1)

    def actions_from_params(self, latent: torch.Tensor, deterministic: bool = False) -> Any:
        return self.proba_distribution(latent).get_actions(deterministic)

    def log_prob_from_params(self, latent: torch.Tensor) -> Any:
        actions = self.actions_from_params(latent)
        return actions, self.log_prob(actions)


class BetaPolicy(ActorCriticPolicy):
    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        low, high = torch.as_tensor(BOX.low), torch.as_tensor(BOX.high)
        self.action_dist = BetaHead(low, high)
        self.action_net = self.action_dist.proba_distribution_net(self.mlp_extractor.latent_dim_pi)

    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> Distribution:
        head: Any = self.action_dist
        return head.proba_distribution(self.action_net(latent_pi))


def shake(model: Any) -> Any:
    """Give every weight a size that matters: fresh policies act nearly as zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.policy.parameters():
            weights.copy_(0.3 * torch.randn(weights.shape, generator=generator))
    return model


def policies() -> dict[str, Any]:
    seen = spaces.Dict({"speed": spaces.Box(0, 40, (1,), np.float32), "road": SEEN})
    small: dict[str, Any] = {"net_arch": [16]}
    env, both = Drift(BOX, SEEN), Drift(BOX, seen)
    return {
        "ppo": lambda: PPO("MlpPolicy", env, policy_kwargs=small, device="cpu"),
        "beta": lambda: PPO(BetaPolicy, env, policy_kwargs=small, device="cpu"),
        "dict": lambda: PPO("MultiInputPolicy", both, policy_kwargs=small, device="cpu"),
        "discrete": lambda: PPO(
            "MlpPolicy", Drift(spaces.Discrete(5), SEEN), policy_kwargs=small, device="cpu"
        ),
        "sac": lambda: SAC("MlpPolicy", env, policy_kwargs=small, buffer_size=10, device="cpu"),
        "dqn": lambda: DQN(
            "MlpPolicy",
            Drift(spaces.Discrete(4), SEEN),
            policy_kwargs=small,
            buffer_size=10,
            device="cpu",
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "beta", "dict", "discrete", "sac", "dqn"])
def test_feed_forward(name: str, tmp_path: Path) -> None:
    model = shake(policies()[name]())
    actor = export_sb3(model, tmp_path / "p.onnx")
    run = session(tmp_path / "p.onnx")
    space = model.observation_space
    space.seed(3)
    for _ in range(50):
        seen = space.sample()
        expected, _ = model.predict(seen, deterministic=True)
        feeds = seen if isinstance(seen, dict) else {"observation": seen}
        (found,) = run.run(["action"], {n: a[None] for n, a in feeds.items()})
        np.testing.assert_allclose(found[0], expected, atol=1e-5)
    assert actor.input_names == list(feeds)


def test_normaliser_is_in_the_graph(tmp_path: Path) -> None:
    venv = VecNormalize(DummyVecEnv([lambda: Drift(BOX, SEEN)]), clip_obs=1.0)
    statistics: Any = venv.obs_rms
    statistics.mean[:], statistics.var[:] = 1.0, 4.0
    model = shake(PPO("MlpPolicy", venv, policy_kwargs={"net_arch": [16]}, device="cpu"))
    export_sb3(model, tmp_path / "p.onnx", dynamic_batch=True)
    seen = np.stack([SEEN.sample() for _ in range(7)])
    expected, _ = model.predict(venv.normalize_obs(seen), deterministic=True)
    (found,) = session(tmp_path / "p.onnx").run(["action"], {"observation": seen})
    np.testing.assert_allclose(found, expected, atol=1e-5)


def recurrent(cell: str, layers: int = 1) -> Any:
    env = Drift(BOX, SEEN)
    arguments: dict[str, Any] = {"lstm_hidden_size": 32, "n_lstm_layers": layers, "net_arch": [16]}
    model = RecurrentPPO("MlpLstmPolicy", env, policy_kwargs=arguments, device="cpu", n_steps=8)
    if cell == "gru":
        policy: Any = model.policy

        class Gru(nn.GRU):
            def forward(self, x: Any, states: Any) -> Any:  # type: ignore[override]
                output, hidden = super().forward(x, states[0])
                return output, (hidden, states[1])

        policy.lstm_actor = Gru(policy.lstm_actor.input_size, 32, layers)
    return shake(model)


@pytest.mark.parametrize(
    ("cell", "layers"), [("lstm", 1), pytest.param("gru", 2, marks=pytest.mark.slow)]
)
def test_recurrent_over_1000_steps(cell: str, layers: int, tmp_path: Path) -> None:
    model = recurrent(cell, layers)
    actor = export_sb3(model, tmp_path / "p.onnx")
    operators = {n.op_type for n in onnx.load(str(tmp_path / "p.onnx")).graph.node}
    assert not operators & TINYGRAD_UNSUPPORTED
    run = session(tmp_path / "p.onnx")
    state: Any = None
    carried = {n: np.zeros((1, layers, 32), np.float32) for n in actor.state_names}
    SEEN.seed(0)
    largest = 0.0
    for step in range(1000):
        start = step % 300 == 0
        seen = SEEN.sample()
        expected, state = model.predict(
            seen, state=state, episode_start=np.array([start]), deterministic=True
        )
        if start:
            carried = {n: np.zeros_like(v) for n, v in carried.items()}
        found, *after = run.run(actor.output_names, {"observation": seen[None], **carried})
        carried = dict(zip(carried, after, strict=True))
        largest = max(largest, float(np.abs(found[0] - expected).max()))
    assert largest < 1e-5
    assert np.abs(expected).max() > 1e-3


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([nn.LSTM, nn.GRU]), st.integers(1, 3), st.booleans(), st.integers(1, 4),
    st.integers(0, 2**31),
)  # fmt: skip
def test_unrolled_cells_equal_those_of_torch(
    kind: Any, layers: int, bias: bool, rows: int, seed: int
) -> None:
    torch.manual_seed(seed)
    rnn = kind(5, 7, layers, bias=bias)
    states = [torch.randn(layers, rows, 7) for _ in range(2 if kind is nn.LSTM else 1)]
    x = torch.randn(rows, 5)
    with torch.no_grad():
        given = tuple(states) if kind is nn.LSTM else states[0]
        expected, after = rnn(x[None], given)
        found, *new = UnrolledRNN(rnn)(x, *(s.transpose(0, 1) for s in states))
    torch.testing.assert_close(found, expected[0])
    for a, b in zip(new, after if kind is nn.LSTM else [after], strict=True):
        torch.testing.assert_close(a.transpose(0, 1), b)


def test_what_cannot_be_written_out_is_named() -> None:
    with pytest.raises(InputError, match="one-way"):
        UnrolledRNN(nn.LSTM(3, 4, bidirectional=True))
