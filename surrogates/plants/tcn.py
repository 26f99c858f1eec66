"""A plant that looks back by dilated convolutions (TCN): every step at once, so quick on a GPU.

Source of the form: Bai, Kolter, Koltun, "An Empirical Evaluation of Generic Convolutional and Recurrent
Networks for Sequence Modeling" (2018).
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from steerlab.surrogates.plants.shaped import ShapedSurrogate


class TcnSurrogate(ShapedSurrogate):
    """Three residual layers of causal convolutions, which see 19 steps.

    Args:
        size: small, medium or large.
    """

    SIZES: ClassVar[dict[str, int]] = {"small": 32, "medium": 48, "large": 64}
    KERNEL = 3
    DILATIONS = (1, 2, 6)  # 1 + 2 * (1 + 2 + 6) steps

    def _make_network(self, inputs: int, hidden: int) -> None:
        self.enter = nn.Linear(inputs, hidden)
        self.layers = nn.ModuleList(
            nn.Conv1d(hidden, hidden, self.KERNEL, dilation=dilation) for dilation in self.DILATIONS
        )

    def _remember(self, steps: Tensor) -> Tensor:
        x = self.enter(steps).transpose(1, 2)
        for layer, dilation in zip(self.layers, self.DILATIONS, strict=True):
            before = functional.pad(
                x, ((self.KERNEL - 1) * dilation, 0)
            )  # nothing from later steps
            x = x + functional.silu(layer(before))
        return torch.transpose(x, 1, 2)
