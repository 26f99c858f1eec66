"""Policies for sb3-contrib's RecurrentPPO that run whole sequences instead of single time steps.

sb3-contrib feeds its LSTM one time step after the other as soon as any episode starts in a batch.
But its buffer cuts sequences at episode starts, so a start lies at the beginning of a sequence,
where it only clears the initial state. One call of the LSTM then does, with the same numbers.
"""

from typing import Any

import torch
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from steerlab.errors import unknown_name

States = tuple[Tensor, Tensor]
CELLS = ("lstm", "gru")


class GRU(nn.GRU):
    """A GRU in the place of an LSTM: it takes and returns a second state, which stays as it is."""

    def forward(self, x: Tensor, states: States) -> Any:  # type: ignore[override]
        """Return the outputs (T, B, H) and both states."""
        output, hidden = super().forward(x, states[0].contiguous())
        return output, (hidden, states[1])


def process_sequence(
    features: Tensor, states: States, episode_starts: Tensor, rnn: nn.RNNBase
) -> tuple[Tensor, States]:
    """Run ``rnn`` over B sequences of T steps, forgetting everything at episode starts.

    Args:
        features: Inputs, sequence by sequence, (B * T, F).
        states: Hidden and cell state before the first step, each (layers, B, H).
        episode_starts: 1 where a step is the first of an episode, (B * T,).
        rnn: LSTM or :class:`GRU`.

    Returns:
        Outputs (B * T, H) in the order of the inputs, and the states after the last step.
    """
    count = states[0].shape[1]
    x = features.reshape(count, -1, rnn.input_size).swapaxes(0, 1)
    starts = episode_starts.reshape(count, -1)
    keep = (1.0 - starts[:, 0]).view(1, count, 1)
    first = (keep * states[0], keep * states[1])
    if len(x) > 1 and bool(starts[:, 1:].any()):
        return _with_starts_inside(x, first, starts, rnn)
    output, last = rnn(x, first)
    return output.transpose(0, 1).flatten(0, 1), last


def _with_starts_inside(
    x: Tensor, first: States, starts: Tensor, rnn: nn.RNNBase
) -> tuple[Tensor, States]:
    """Cut the sequences x (T, B, F) at the starts inside of them, and run all pieces at once."""
    length, count = x.shape[:2]
    cuts = starts.bool().clone()
    cuts[:, 0] = True
    row, begin = cuts.nonzero(as_tuple=True)  # ordered by row, then by time
    following = torch.cat([begin[1:], begin.new_zeros(1)])
    end = torch.where(following > 0, following, torch.full_like(begin, length))
    lengths = end - begin
    pieces = [x[b:e, r] for r, b, e in zip(row.tolist(), begin.tolist(), end.tolist(), strict=True)]
    padded = nn.utils.rnn.pad_sequence(pieces)
    fresh = (begin == 0).view(1, -1, 1)
    initial = (first[0][:, row] * fresh, first[1][:, row] * fresh)
    packed = pack_padded_sequence(padded, lengths.cpu(), enforce_sorted=False)
    if isinstance(rnn, GRU):
        packed_output, hidden = nn.GRU.forward(rnn, packed, initial[0].contiguous())
        last = (hidden, initial[1])
    else:
        packed_output, last = rnn(packed, initial)
    output, _ = pad_packed_sequence(packed_output)
    inside = torch.arange(len(output), device=x.device)[:, None] < lengths
    final = torch.searchsorted(row, torch.arange(count, device=x.device), right=True) - 1
    # Piece after piece is, row by row, the order of the inputs.
    return output.transpose(0, 1)[inside.T], (last[0][:, final], last[1][:, final])


class _WholeSequences:
    """Mixin for sb3-contrib's recurrent policies."""

    _process_sequence: Any = staticmethod(process_sequence)

    def __init__(self, *args: Any, cell: str = "lstm", **kwargs: Any) -> None:
        """Build the policy; ``cell`` is lstm or gru, the other arguments are sb3-contrib's."""
        if cell not in CELLS:
            raise unknown_name("cell", cell, CELLS)
        super().__init__(*args, **kwargs)
        self.cell = cell
        if cell == "gru":
            _replace_lstms(self)  # type: ignore[arg-type]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"cell": self.cell}  # type: ignore[misc]


def _replace_lstms(policy: RecurrentActorCriticPolicy) -> None:
    """Put GRUs in the place of the LSTMs, and give the optimiser the new parameters."""
    for name in ("lstm_actor", "lstm_critic"):
        lstm = getattr(policy, name)
        if lstm is not None:
            gru = GRU(lstm.input_size, lstm.hidden_size, lstm.num_layers, **policy.lstm_kwargs)
            setattr(policy, name, gru)
    rate = policy.optimizer.param_groups[0]["lr"]
    make: Any = policy.optimizer_class
    policy.optimizer = make(policy.parameters(), lr=rate, **policy.optimizer_kwargs)


class SequencePolicy(_WholeSequences, RecurrentActorCriticPolicy):
    """``MlpLstmPolicy`` with whole-sequence passes; it loads that policy's weights and saves them."""


class SequenceCnnPolicy(_WholeSequences, RecurrentActorCriticCnnPolicy):
    """``CnnLstmPolicy`` with whole-sequence passes."""


class SequenceMultiInputPolicy(_WholeSequences, RecurrentMultiInputActorCriticPolicy):
    """``MultiInputLstmPolicy`` with whole-sequence passes."""
