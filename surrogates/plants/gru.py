"""A plant that remembers by a gated recurrent unit: small, and quick on a CPU."""

from typing import ClassVar

from torch import Tensor, nn

from steerlab.surrogates.plants.shaped import ShapedSurrogate


class GruSurrogate(ShapedSurrogate):
    """One GRU layer over steps.

    Args:
        size: small, medium or large.
    """

    SIZES: ClassVar[dict[str, int]] = {"small": 48, "medium": 64, "large": 88}

    def _make_network(self, inputs: int, hidden: int) -> None:
        self.gru = nn.GRU(inputs, hidden, batch_first=True)

    def _remember(self, steps: Tensor) -> Tensor:
        hidden: Tensor = self.gru(steps)[0]
        return hidden
