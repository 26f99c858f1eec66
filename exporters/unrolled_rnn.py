"""Recurrent cells in plain operations: tinygrad has neither LSTM nor GRU."""

import torch
from torch import Tensor, nn

from steerlab.errors import InputError


class UnrolledRNN(nn.Module):
    """One step of an ``nn.LSTM`` or ``nn.GRU`` (all layers), without their operators."""

    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        if not isinstance(rnn, nn.LSTM | nn.GRU) or rnn.bidirectional or rnn.proj_size:
            raise InputError(f"cannot write out {rnn}; use a one-way LSTM or GRU")
        self.rnn, self.is_lstm = rnn, isinstance(rnn, nn.LSTM)

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the output (B, H) and the next states (B, layers, H) of inputs (B, F)."""
        after: list[list[Tensor]] = [[] for _ in states]
        for layer in range(self.rnn.num_layers):
            before = [state[:, layer] for state in states]
            step = self._lstm if self.is_lstm else self._gru
            new = step(layer, x, *before)
            x = new[0]
            for row, value in zip(after, new, strict=True):
                row.append(value)
        return x, *(torch.stack(row, dim=1) for row in after)

    def _gates(self, layer: int, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        def linear(name: str, values: Tensor) -> Tensor:
            bias = getattr(self.rnn, f"bias_{name}_l{layer}") if self.rnn.bias else None
            return nn.functional.linear(values, getattr(self.rnn, f"weight_{name}_l{layer}"), bias)

        return linear("ih", x), linear("hh", h)

    def _lstm(self, layer: int, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        from_x, from_h = self._gates(layer, x, h)
        i, f, g, o = (from_x + from_h).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def _gru(self, layer: int, x: Tensor, h: Tensor) -> tuple[Tensor]:
        from_x, from_h = self._gates(layer, x, h)
        (r_x, z_x, n_x), (r_h, z_h, n_h) = from_x.chunk(3, dim=-1), from_h.chunk(3, dim=-1)
        z = torch.sigmoid(z_x + z_h)
        n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
        return ((1.0 - z) * n + z * h,)
