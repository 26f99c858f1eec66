"""Wrappers that turn a network into the module that is exported."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from steerlab.openpilot.contracts import IMAGE_LAG, STRIDE, Model
from steerlab.openpilot.outputs import pack


class Packed(nn.Module):
    """A network whose named tensors are packed into the flat output.

    ``network`` takes the contract's inputs in their order and returns named tensors as
    :func:`~steerlab.openpilot.outputs.pack` takes them.
    """

    def __init__(self, network: nn.Module, model: Model) -> None:
        super().__init__()
        self.network, self.model = network, model

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return (B, N)."""
        named: Mapping[str, Tensor] = self.network(*inputs)
        return pack(self.model, named)


class HistoryInGraph(nn.Module):
    """A supercombo of the 2026-06 form with its queues inside, as the 2026-09 form has them.

    Args:
        network: Takes img, big_img, desire_pulse, traffic_convention, action_t and
            features_buffer; returns the flat output.
        hidden_state: Place of the features in it.
    """

    def __init__(self, network: nn.Module, hidden_state: slice) -> None:
        super().__init__()
        self.network, self.hidden_state = network, hidden_state

    def forward(
        self,
        new_img: Tensor,
        desire: Tensor,
        traffic_convention: Tensor,
        action_t: Tensor,
        img_q: Tensor,
        big_img_q: Tensor,
        desire_q: Tensor,
        prev_feat: Tensor,
        feat_q: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the flat output and the next value of every queue, in the order of the inputs."""
        img_q = torch.cat([img_q[1:], new_img[:1]])
        big_img_q = torch.cat([big_img_q[1:], new_img[1:]])
        desire_q = torch.cat([desire_q[1:], desire[None, None]])
        feat_q = torch.cat([feat_q[1:], prev_feat[None]])
        outputs = self.network(
            torch.cat([img_q[0], img_q[IMAGE_LAG]])[None],
            torch.cat([big_img_q[0], big_img_q[IMAGE_LAG]])[None],
            desire_q.reshape(-1, STRIDE, desire.shape[0]).amax(dim=1)[None],
            traffic_convention,
            action_t,
            feat_q[::STRIDE].transpose(0, 1),
        )
        return outputs, img_q, big_img_q, desire_q, outputs[:, self.hidden_state], feat_q
