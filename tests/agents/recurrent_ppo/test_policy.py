"""Whole sequences give the numbers that one step after the other gives."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from torch import Tensor, nn

from steerlab.agents.recurrent_ppo.policy import GRU, SequencePolicy, process_sequence
from steerlab.errors import InputError


def loop(x: Tensor, states: Any, starts: Tensor, rnn: nn.RNNBase) -> Any:
    """Return what ``rnn`` gives step by step; x (B, T, F), starts (B, T)."""
    outputs = []
    for t in range(x.shape[1]):
        keep = (1 - starts[:, t]).view(1, -1, 1)
        output, states = rnn(x[None, :, t], (keep * states[0], keep * states[1]))
        outputs.append(output[0])
    return torch.stack(outputs, 1), states


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 5),
    length=st.integers(1, 12),
    layers=st.integers(1, 2),
    rate=st.sampled_from([0.0, 0.2, 1.0]),
    cell=st.sampled_from([nn.LSTM, GRU]),
    seed=st.integers(0, 1000),
)
def test_same_outputs_states_and_gradients(
    count: int, length: int, layers: int, rate: float, cell: Any, seed: int
) -> None:
    torch.manual_seed(seed)
    rnn = cell(3, 4, layers)
    x = torch.randn(count, length, 3)
    starts = (torch.rand(count, length) < rate).float()
    starts[0, 0] = 1.0
    states = (torch.randn(layers, count, 4), torch.randn(layers, count, 4))
    weight = torch.randn(count, length, 4)
    found, gradients = [], []
    for run in (process_sequence, None):
        rnn.zero_grad()
        if run:
            output, last = run(x.flatten(0, 1), states, starts.flatten(), rnn)
            output = output.view(count, length, 4)
        else:
            output, last = loop(x, states, starts, rnn)
        (output * weight).sum().backward()
        gradients.append([p.grad.clone() for p in rnn.parameters()])
        found.append((output, last[0]) if cell is GRU else (output, *last))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def train(policy: Any, steps: int = 128, **kwargs: Any) -> RecurrentPPO:
    env: Any = gym.make("CartPole-v1")
    model = RecurrentPPO(
        policy, env, n_steps=64, batch_size=32, n_epochs=3, seed=3,
        policy_kwargs={"lstm_hidden_size": 16, **kwargs},
    )  # fmt: skip
    return model.learn(steps)


def test_training_ends_with_the_same_weights_and_checkpoints_are_exchangeable(
    tmp_path: Path,
) -> None:
    stock, ours = train("MlpLstmPolicy"), train(SequencePolicy)
    for (name, a), (other, b) in zip(
        stock.policy.state_dict().items(), ours.policy.state_dict().items(), strict=True
    ):
        assert name == other
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    stock.policy.save(str(tmp_path / "stock.pth"))
    weights = torch.load(tmp_path / "stock.pth", weights_only=False)["state_dict"]
    ours.policy.load_state_dict(weights)
    obs = np.zeros(4, np.float32)
    a, b = (m.predict(obs, deterministic=True)[0] for m in (stock, ours))
    assert a == b
    ours.save(tmp_path / "ours.zip")
    again = RecurrentPPO.load(tmp_path / "ours.zip")
    assert isinstance(again.policy, SequencePolicy)


def test_gru_learns_with_every_kind_of_critic() -> None:
    for kwargs in ({}, {"enable_critic_lstm": False}):
        model = train(SequencePolicy, cell="gru", **kwargs)
        policy = model.policy
        assert isinstance(policy, RecurrentActorCriticPolicy)
        assert isinstance(policy.lstm_actor, GRU)
        held = {id(p) for group in policy.optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in policy.parameters()}
        action, states = model.predict(np.zeros(4, np.float32))
        assert states is not None
        assert np.isfinite(action).all()


def test_unknown_cell() -> None:
    with pytest.raises(InputError, match="unknown cell 'rnn'"):
        train(SequencePolicy, cell="rnn")
