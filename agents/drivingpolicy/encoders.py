"""From the window of features to one state: a recurrence, or attention over the frames."""

import torch
from torch import Tensor, nn

from steerlab.agents.policynet.model import unrolled
from steerlab.errors import unknown_name
from steerlab.openpilot.contracts import DESIRES, FEATURES, HISTORY, STRIDE

WINDOW = HISTORY // STRIDE  # frames of a window, 0.2 s apart, newest last
HEADS = 4


def present(features: Tensor) -> Tensor:
    """Return 1 where a window (B, T, 512) has a frame, 0 where the queue is still empty, (B, T, 1)."""
    return (features.abs().amax(-1, keepdim=True) * 1e4).clamp(max=1.0)


class Recurrence(nn.Module):
    """A layer-normalised GRU over the window, from zero, written out: tinygrad has no such operator.

    Args:
        reduced: Values to which a frame's features are reduced.
        hidden: Units of the state.
    """

    def __init__(self, reduced: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(FEATURES, reduced)
        self.input_gates = nn.Linear(reduced + len(DESIRES), 3 * hidden, bias=False)
        self.input_norm = nn.LayerNorm(3 * hidden)
        self.state_gates = nn.Linear(hidden, 3 * hidden, bias=False)
        self.state_norm = nn.LayerNorm(3 * hidden)

    def forward(self, features: Tensor, desire: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state (B, hidden) and the reduced last frame (B, reduced)."""
        reduced = nn.functional.silu(self.reduce(features))
        gates = self.input_norm(self.input_gates(torch.cat([reduced, desire], dim=-1)))
        states = unrolled(gates, present(features), lambda s: self.state_norm(self.state_gates(s)))
        return states[-1], reduced[:, -1]


class Attention(nn.Module):
    """The last frame asks all frames of the window, each with a learned sense of its age.

    The arguments are those of :class:`Recurrence`.
    """

    def __init__(self, reduced: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(FEATURES, reduced)
        self.tokens = nn.Linear(reduced + len(DESIRES), hidden)
        self.age = nn.Parameter(0.02 * torch.randn(WINDOW, hidden))
        self.norm = nn.LayerNorm(hidden)
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.pairs = nn.Linear(hidden, 2 * hidden, bias=False)
        self.out = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, 2 * hidden), nn.SiLU(),
            nn.Linear(2 * hidden, hidden),
        )  # fmt: skip

    def forward(self, features: Tensor, desire: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state (B, hidden) and the reduced last frame (B, reduced)."""
        reduced = nn.functional.silu(self.reduce(features))
        tokens = self.norm(self.tokens(torch.cat([reduced, desire], dim=-1)) + self.age)
        batch, frames, width = tokens.shape
        heads = (batch, frames, HEADS, width // HEADS)
        key, value = (x.reshape(heads).transpose(1, 2) for x in self.pairs(tokens).chunk(2, -1))
        query = self.query(tokens[:, -1:]).reshape(batch, 1, HEADS, -1).transpose(1, 2)
        score = (query * key).sum(-1) * (width // HEADS) ** -0.5  # (B, HEADS, T)
        score = score - 1e4 * (1.0 - present(features)).transpose(1, 2)
        weight = torch.softmax(score, dim=-1)[..., None]
        state = tokens[:, -1] + (weight * value).sum(2).reshape(batch, width)
        return state + self.out(state), reduced[:, -1]


ENCODERS: dict[str, type[Recurrence] | type[Attention]] = {
    "gru": Recurrence, "attention": Attention,
}  # fmt: skip


def make_encoder(name: str, reduced: int, hidden: int) -> nn.Module:
    """Return an encoder by name.

    Raises:
        InputError: There is no such encoder.
    """
    if name not in ENCODERS:
        raise unknown_name("encoder", name, ENCODERS)
    return ENCODERS[name](reduced, hidden)
