"""A trained policy with the inputs and outputs of another release than it was trained for."""

import copy

import torch
from torch import Tensor, nn

from steerlab.agents.policynet.features import speed_and_delay
from steerlab.agents.policynet.model import VISION, Parts, PolicyNet
from steerlab.errors import InputError
from steerlab.openpilot.contracts import Contract, Model

_CAR = "lateral_control_params"


class PortedPolicy(nn.Module):
    """Takes the inputs of another contract's policy in their order, returns its named tensors.

    The plan is made for the rule by which that release reads a command from it, so the release
    commands what the network says. Speed and delay, where the release does not feed them, are read from
    the features, into which the fixed encoder wrote them. Where the release has one plan, the plan is
    the likeliest hypothesis; where it has five and the network one, that one five times.

    Args:
        policy: The trained policy; it stays as it is.
        target: The other contract.

    Raises:
        InputError: The policy needs the car's speed, which the release does not feed and its features
            do not tell.
    """

    says: tuple[str, ...] = ()  # optional heads that it has tensors for

    def __init__(self, policy: PolicyNet, target: Contract) -> None:
        super().__init__()
        self.contract, self.features, self.task = target, policy.features, policy.task
        self.model = ported_model(policy, target)
        self.feeds = {i.feed: n for n, i in self.model.inputs.items()}
        self.reads_car = _CAR in policy.feeds
        if self.reads_car and _CAR not in self.feeds and policy.features == VISION:
            raise InputError(
                f"a policy for {policy.contract.id} is fed speed and delay, which {target.id} does not "
                "feed, and the features of a vision network do not tell them; train one for "
                f"{target.id} or openpilot-0.10.1"
            )
        self.policy = copy.deepcopy(policy)
        self.policy.follow(target)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the tensors of the heads, each (B, *shape)."""
        named = dict(zip(self.feeds, inputs, strict=True))
        return self.tensors(self.read(named["features"], named))

    def read(self, features: Tensor, named: dict[str, Tensor]) -> Parts:
        """Return what the network says of a window (B, 25, 512).

        Args:
            features: The window.
            named: The other inputs by what the consumer puts there.
        """
        car = named.get(_CAR)
        if self.reads_car and car is None:
            speed, delay = speed_and_delay(features[:, -1])
            car = torch.stack(
                [speed.clamp(min=0.0), delay + self.contract.command.lat_smooth_s], dim=-1
            )
        return self.policy.read_window(
            features,
            named["desire"],
            named["traffic_convention"],
            car if self.reads_car else None,
            named.get("action_t"),
        )

    def tensors(self, parts: Parts) -> dict[str, Tensor]:
        """Return the named tensors of those heads that a policy has."""
        found = self.policy.tensors(parts)
        plan, log_std = self.policy.plan(parts)
        count = self.model.heads["plan"].hypotheses
        if self.model.heads["plan"].kind == "mixture":
            if plan.shape[1] != count:
                plan, log_std = (x.expand(-1, count, -1, -1) for x in (plan, log_std))
            logits = parts.logits.expand(-1, count)[..., None]
            found |= {"plan": plan, "plan_log_std": log_std, "plan_logits": logits}
        else:
            # A sum with weights 0 and 1, which every target computes, in place of a look-up.
            best = (parts.logits >= parts.logits.amax(dim=1, keepdim=True)).to(plan.dtype)
            best = (best / best.sum(dim=1, keepdim=True))[..., None, None]
            found |= {"plan": (best * plan).sum(1), "plan_log_std": (best * log_std).sum(1)}
        found |= {
            "desired_curvature": parts.near.curvature[..., None],
            "desired_curvature_log_std": parts.curvature_log_std.clamp(-10.0, 5.0),
        }
        wanted = {name for head in self.model.heads.values() for name in head.tensors}
        return {name: values for name, values in found.items() if name in wanted}


def ported_model(policy: PolicyNet, target: Contract) -> Model:
    """Return the target's model, with the form of the plan that the policy has, where it may have it."""
    model = target.model(target.policy_name)
    width = policy.model.heads["plan"].width
    if not target.is_split or not model.accepts("plan", width):
        return model
    return target.model(target.policy_name, heads={"plan": width})
