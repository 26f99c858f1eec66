"""The policy network: a contract's policy inputs to a plan, and to what else the contract's heads say.

Weights do not depend on the contract. Speed and delay are used where the release feeds them
(``lateral_control_params``, ``action_t``), and read from the features where it does not: in training
they are hidden from the network half of the time. Where a release has five plans, these are the
hypotheses; where it has one, the likeliest.

What a plan begins with, up to one second, is one for all hypotheses, and set such that the contract's
rule reads the network's command from it (:mod:`steerlab.openpilot.plan`). So the command does not jump
when another hypothesis becomes the likeliest.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from steerlab.agents.drivingpolicy.encoders import WINDOW, make_encoder, present
from steerlab.agents.drivingpolicy.heads import HYPOTHESES, Hypotheses, make_head
from steerlab.agents.policynet.model import LONGITUDINAL_DELAY, near_of, read_car
from steerlab.errors import InputError
from steerlab.openpilot.commands import action_times
from steerlab.openpilot.contracts import DESIRES, FEATURES, T_IDXS, Contract, Model, contract
from steerlab.openpilot.plan import FREE, Near, PlanShape
from steerlab.options import option

_SPEED, _DELAY = 15.0, 0.3  # units of speed, m/s, and delay, s
#: Width to which the desires of a window are reduced. A pulse is one frame of 25: through the encoder's memory
#: alone a policy learned to use the pictures long before it noticed one.
WISH = 32


@dataclass(frozen=True)
class Diffusion:
    """Options of the plan head ``anchored``; ``steps`` counts for ``flow`` too."""

    steps: int = option(
        2, "steps of denoising (head anchored: 0 to 8) or of integration (flow: 1 to 16)"
    )
    schedule: str = option("cosine", "growth of the noise in training: cosine or linear")
    truncation: float = option(0.2, "share of the noise schedule that is used, in (0, 1]")


@dataclass(frozen=True)
class PolicyDesign:
    """What the network is made of."""

    reduced: int = option(128, "width to which each frame's 512 features are reduced")
    hidden: int = option(128, "width of the encoder's state")
    trunk: int = option(128, "width of the hidden layers before the heads")
    encoder: str = option("gru", "encoder of the window of features: gru or attention")
    head: str = option("anchored", "kind of plan head: anchored, mdn, regression or flow")
    diffusion: Diffusion = option(Diffusion(), "options of the plan head")


class PolicyOutputs(NamedTuple):
    """What the network says of B windows, before it becomes a plan."""

    near: Near  # (B,) each
    now: Tensor  # what it reads from the features: speed, acceleration, .. without units, (B, 4)
    seen: Tensor  # input of the plan head, (B, trunk)
    curvature_log_std: Tensor  # (B, 1)
    desire: Tensor  # logits, (B, 8)


class DrivingPolicy(nn.Module):
    """Takes the inputs of a contract's policy in their order, returns its named tensors.

    :func:`~steerlab.openpilot.outputs.pack` lays them out. Of a contract with one network it is the
    part behind the vision: :meth:`read` and :meth:`tensors`.

    Args:
        contract_: The contract, or its name.
        design: What it is made of.

    Raises:
        InputError: An option of the design is out of range.
    """

    says: tuple[str, ...] = ("action",)  # optional heads that it has tensors for

    def __init__(self, contract_: Contract | str, design: PolicyDesign | None = None) -> None:
        super().__init__()
        self.design = design = design or PolicyDesign()
        check_design(design)
        self.encoder = make_encoder(design.encoder, design.reduced, design.hidden)
        self.features_read = nn.Linear(FEATURES, 4)
        self.wish = nn.Linear(WINDOW * len(DESIRES), WISH)
        direct = WISH + 2 + 3  # desires; traffic; speed, delay, and whether they are known
        self.trunk = nn.Sequential(
            nn.Linear(design.hidden + design.reduced + direct, design.trunk), nn.SiLU(),
            nn.Linear(design.trunk, design.trunk), nn.SiLU(),
        )  # fmt: skip
        self.widths = {"command": 2, "now": 4, "curvature_log_std": 1, "desire": len(DESIRES)}
        self.heads = nn.Linear(design.trunk, sum(self.widths.values()))
        noise = design.diffusion
        self.plan_head = make_head(
            design.head, design.trunk, noise.steps, noise.schedule, noise.truncation
        )
        with torch.no_grad():
            self.heads.weight *= 0.1
            self.features_read.weight *= 0.1
        times = torch.as_tensor(T_IDXS, dtype=torch.float32)
        grown = torch.log(0.05 + 0.3 * times + 0.05 * times**2)
        self.log_std = nn.Parameter(grown[:, None].repeat(1, 15))
        #: Where the features come from that it is trained on.
        self.features = "vision"
        self.follow(contract(contract_) if isinstance(contract_, str) else contract_)

    def follow(self, target: Contract) -> None:
        """Take the inputs, the heads and the rule of a contract."""
        self.contract = target
        bare = target.model(target.policy_name)
        heads: dict[str, int | None] = {
            n: bare.widths[n][0] for n in bare.optional if n in self.says
        }
        self.model: Model = target.model(target.policy_name, heads=heads)
        self.feeds = {i.feed: n for n, i in self.model.inputs.items()}
        self.shape = PlanShape(target.command)
        self.t_longitudinal = float(action_times(target.command, 0.0, LONGITUDINAL_DELAY)[1])

    def ported(self, target: Contract) -> Self:
        """Return a policy with the same weights for another contract."""
        other = copy.deepcopy(self)
        other.follow(target)
        return other.eval()

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the tensors of the heads, each (B, *shape).

        Raises:
            InputError: The contract joins policy and vision in one network.
        """
        if "features" not in self.feeds:
            raise InputError(
                f"{self.contract.id} is one network with its vision: export them joined"
            )
        named = dict(zip(self.feeds, inputs, strict=True))
        return self.tensors(self.read(named["features"], named))

    def read(self, features: Tensor, named: Mapping[str, Tensor]) -> PolicyOutputs:
        """Return what the network says of a window (B, 25, 512).

        Args:
            features: The window, newest last.
            named: The other inputs by what the consumer puts there.
        """
        car = named.get("lateral_control_params")
        known = None if car is None else car.new_ones(len(car), 1)
        return self.predict(
            features, named["desire"], named["traffic_convention"], car, known,
            named.get("action_t"),
        )  # fmt: skip

    def predict(
        self,
        features: Tensor,
        desire: Tensor,
        traffic: Tensor,
        car: Tensor | None = None,
        known: Tensor | None = None,
        times: Tensor | None = None,
    ) -> PolicyOutputs:
        """Return what the network says.

        Args:
            features: The window, (B, 25, 512).
            desire: Pulses of the window, (B, 25, 8).
            traffic: One-hot, (B, 2).
            car: Speed (m/s) and delay with smoothing (s), (B, 2); None where they are unknown.
            known: 1 where ``car`` is given, else 0, (B, 1).
            times: When steering and acceleration take effect, s, (B, 2); None where they are unknown.
        """
        state, reduced = self.encoder(features, desire)
        of_car = traffic.new_zeros(len(traffic), 3)
        if car is not None and known is not None:
            of_car = torch.cat(
                [car[:, :1] / _SPEED, car[:, 1:] / _DELAY, torch.ones_like(known)], 1
            )
            of_car = of_car * known
        wish = nn.functional.silu(self.wish((desire * present(features)).flatten(1)))
        seen = self.trunk(torch.cat([state, reduced, wish, traffic, of_car], dim=-1))
        parts = self.heads(seen).split(list(self.widths.values()), -1)
        outputs = dict(zip(self.widths, parts, strict=True))
        now = outputs["now"] + self.features_read(features[:, -1])
        speed, delay = read_car(now.unbind(-1))
        if car is not None and known is not None:
            there = known[:, 0]
            speed = there * car[:, 0] + (1.0 - there) * speed
            fed = car[:, 1] + self.contract.command.extra_delay_s
            delay = there * fed + (1.0 - there) * delay
        later = torch.full_like(speed, self.t_longitudinal)
        if times is not None:
            delay, later = times[:, 0], times[:, 1]
        near = near_of(
            self.contract.command,
            outputs["command"],
            now.unbind(-1),
            speed.clamp(min=0.0),
            delay,
            later,
        )
        return PolicyOutputs(near, now, seen, outputs["curvature_log_std"] - 6.0, outputs["desire"])

    def plans(self, near: Near, knots: Tensor) -> Tensor:
        """Return the plans (B, M, 33, 15) of knots (B, M, 2 FREE) in rad/s and m/s^2."""
        return self.shape(near, knots[..., :FREE], knots[..., FREE:])

    def log_stds(self, spread: Tensor) -> Tensor:
        """Return the log-stds (B, M, 33, 15) of plans with spreads (B, M, 15)."""
        return (self.log_std + spread[..., None, :]).clamp(-5.0, 5.0)

    def hypotheses(self, outputs: PolicyOutputs) -> tuple[Tensor, Tensor, Tensor]:
        """Return plans and their log-stds, (B, M, 33, 15) each, and logits (B, M)."""
        found: Hypotheses = self.plan_head(outputs.seen)
        plans = self.plans(outputs.near, self.plan_head.real(found.knots))
        return plans, self.log_stds(found.spread), found.logits

    def tensors(self, outputs: PolicyOutputs) -> dict[str, Tensor]:
        """Return the named tensors of those heads of the contract's model that a policy has."""
        plan, log_std, logits = self.hypotheses(outputs)
        wanted = {n for head in self.model.heads.values() for n in head.tensors}
        if "plan_logits" in wanted:
            count = (-1, HYPOTHESES, -1, -1)
            plan, log_std = plan.expand(count), log_std.expand(count)
            logits = logits.expand(-1, HYPOTHESES)
        else:
            # A sum with weights 0 and 1, which every target computes, in place of a look-up.
            best = (logits >= logits.amax(dim=1, keepdim=True)).to(plan.dtype)
            best = (best / best.sum(dim=1, keepdim=True))[..., None, None]
            plan, log_std = (best * plan).sum(1), (best * log_std).sum(1)
        near = outputs.near
        lateral = near.curvature * near.speed.clamp(min=self.contract.command.min_speed) ** 2
        action = torch.stack([lateral, near.pedal], dim=-1)
        found = {
            "plan": plan,
            "plan_log_std": log_std,
            "plan_logits": logits[..., None],
            "desired_curvature": near.curvature[:, None],
            "desired_curvature_log_std": outputs.curvature_log_std.clamp(-10.0, 5.0),
            "desire_state_logits": outputs.desire,
            "action": action,
            "action_log_std": torch.zeros_like(action),
        }
        return {name: values for name, values in found.items() if name in wanted}

    def describe(self) -> dict[str, Any]:
        """Return plain values from which :func:`driving_policy_from` rebuilds the network."""
        return {
            "contract": self.contract.id, "design": asdict(self.design), "features": self.features,
        }  # fmt: skip


def driving_policy_from(
    describe: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> DrivingPolicy:
    """Return the network that :meth:`DrivingPolicy.describe` described, with these weights."""
    design = dict(describe["design"])
    design["diffusion"] = Diffusion(**design["diffusion"])
    network = DrivingPolicy(describe["contract"], PolicyDesign(**design))
    network.load_state_dict(dict(weights))
    network.features = describe["features"]
    return network.eval()


def check_design(design: PolicyDesign) -> None:
    """Refuse widths that no network has.

    Raises:
        InputError: A width is below 4, or odd numbers of units are asked of attention.
    """
    for name in ("reduced", "hidden", "trunk"):
        if getattr(design, name) < 4:
            raise InputError(f"policy.{name}={getattr(design, name)} must be at least 4")
    if design.encoder == "attention" and design.hidden % 4:
        raise InputError(
            f"policy.hidden={design.hidden} must be a multiple of 4: attention has four heads"
        )
