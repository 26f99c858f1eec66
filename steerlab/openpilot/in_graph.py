"""Wrappers that turn a network into the module that is exported."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from steerlab.openpilot.contracts import IMAGE_LAG, STRIDE, Contract, Model
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


def model_with_history(target: Contract, model: Model) -> Model:
    """Return the model of a form with its history in the graph, with the sizes and heads of ``model``.

    Args:
        target: The contract of 2026-09.
        model: A supercombo with its history outside.
    """
    rows = {i.feed: i.shape[1:] for i in model.inputs.values()}
    windows = {"state_desire_q": rows["desire"], "state_feat_q": rows["previous_features"]}
    shapes = {name: (STRIDE * depth, 1, *frame) for name, (depth, *frame) in windows.items()}
    heads: dict[str, int | None] = {h.name: h.width for h in model.heads.values()}
    optional = dict.fromkeys(target.model(target.policy_name).optional)
    return target.model(target.policy_name, heads=optional | heads, shapes=shapes)


class HistoryInGraph(nn.Module):
    """A supercombo of the forms before 2026-09 with its queues inside, as the 2026-09 form has them.

    Args:
        network: Takes img, big_img, desire_pulse, traffic_convention, action_t and
            features_buffer; returns the flat output of :func:`model_with_history`.
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
        desire_q: Tensor,
        feat_q: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the flat output and the next value of every queue, in the order of the inputs.

        Images (2, frames, 6, 128, 256) and desires (slots, 1, 8) get what is new before the network
        runs; the features (slots, 1, F) of this run are pushed after it.
        """
        img_q, older, newer = push_images(img_q, new_img)
        desire_q = torch.cat([desire_q[1:], desire[None, None]])
        pairs = torch.cat([older, newer], dim=1)
        outputs = self.network(
            pairs[:1],
            pairs[1:],
            desire_q.reshape(-1, STRIDE, desire.shape[0]).amax(dim=1)[None],
            traffic_convention,
            action_t,
            feat_q[::STRIDE].transpose(0, 1),
        )
        own = outputs[:, self.hidden_state].reshape(1, *feat_q.shape[1:])
        return outputs, img_q, desire_q, torch.cat([feat_q[1:], own])


def push_images(queue: Tensor, new: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the queue with a new frame of both cameras, and the frames of 200 ms ago and of now.

    Args:
        queue: (2, frames, 6, 128, 256), oldest first.
        new: (2, 6, 128, 256).
    """
    queue = torch.cat([queue[:, 1:], new[:, None]], dim=1)
    return queue, queue[:, -1 - IMAGE_LAG], queue[:, -1]
