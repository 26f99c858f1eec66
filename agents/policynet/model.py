"""The policy network: a layer-normalised GRU over the contract's window, and openpilot's heads.

The network is a function of the window alone: the recurrence starts from zero in each call. Frames that
are still empty (all features zero, as the consumer's queues begin) leave the state at zero, so a
window with k frames is worth what a sequence of those k frames is. Hence one pass over a window gives
25 examples in training, one for each length of the history.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from steerlab.errors import InputError
from steerlab.openpilot.commands import action_times, plan_acceleration, plan_curvature
from steerlab.openpilot.contracts import DESIRES, FEATURES, T_IDXS, CommandRule, Contract, contract
from steerlab.openpilot.plan import FREE, SHARED, Near, PlanShape

LONGITUDINAL_DELAY = 0.15  # s, the actuator's, as openpilot's car interfaces have it by default
LATERAL_ACCELERATION = 3.6  # m/s^2, what the controls let through at most
MAX_CURVATURE = 0.2  # 1/m
_SPEED = 15.0  # m/s, unit of speeds inside the network
KINEMATIC_DRIVER = "KinematicDriver-v0"
#: Features that a vision network makes of pictures.
VISION = "vision"


@dataclass(frozen=True)
class PolicySize:
    """Widths of the network."""

    reduced: int = 128  # values to which a frame's features are reduced
    hidden: int = 128  # units of the GRU
    trunk: int = 128  # units of the two layers before the heads


class Frames(NamedTuple):
    """What the network keeps of frames, (..., *)."""

    reduced: Tensor
    gates: Tensor
    readout: Tensor  # linear functions of the features of this frame
    present: Tensor  # 1 where there is a frame, 0 where the queue is still empty


class Parts(NamedTuple):
    """What the heads say, before it becomes a plan; leading axes (...)."""

    near: Near
    delay: Tensor  # estimate of the time of lateral action, s
    bends: Tensor  # (..., M, FREE) rad/s
    pedals: Tensor  # (..., M, FREE) m/s^2
    spread: Tensor  # (..., M, 15) change of the plan's log-stds
    logits: Tensor  # (..., M)
    curvature_log_std: Tensor  # (..., 1)
    desire: Tensor  # (..., 8) logits


class PolicyNet(nn.Module):
    """Takes the inputs of a contract's policy in their order, returns its named tensors.

    Inputs that the network uses: features, desire, traffic convention and, where the contract has
    them, ``lateral_control_params`` or ``action_t``. Without these it reads speed and delay from
    the features. :func:`~steerlab.openpilot.outputs.pack` lays the tensors out.
    For a supercombo it is the part behind the vision network: see :class:`Supercombo`.

    Args:
        contract_: The contract, or its name.
        size: Widths.
    """

    def __init__(self, contract_: Contract | str, size: PolicySize | None = None) -> None:
        super().__init__()
        self.contract = contract(contract_) if isinstance(contract_, str) else contract_
        self.size = size = size or PolicySize()
        name = next(n for n in self.contract.model_names if n != "driving_vision")
        self.model = self.contract.model(name)
        self.feeds = {i.feed: n for n, i in self.model.inputs.items()}
        plan = self.model.heads["plan"]
        self.hypotheses = plan.hypotheses
        # Parts of the inputs of this frame that go to the heads directly.
        self.direct = 2 + 2 * ("lateral_control_params" in self.feeds)
        units = size.hidden
        self.reduce = nn.Linear(FEATURES, size.reduced)
        self.read = nn.Linear(FEATURES, 4)
        self.input_gates = nn.Linear(size.reduced + len(DESIRES), 3 * units, bias=False)
        self.input_norm = nn.LayerNorm(3 * units)
        self.state_gates = nn.Linear(units, 3 * units, bias=False)
        self.state_norm = nn.LayerNorm(3 * units)
        self.trunk = nn.Sequential(
            nn.Linear(units + size.reduced + self.direct, size.trunk),
            nn.SiLU(),
            nn.Linear(size.trunk, size.trunk),
            nn.SiLU(),
        )
        m = self.hypotheses
        self.widths = {
            "command": 2, "now": 4, "bends": m * FREE, "pedals": m * FREE, "spread": m * 15,
            "logits": m, "curvature_log_std": 1, "desire": len(DESIRES),
        }  # fmt: skip
        self.heads = nn.Linear(size.trunk, sum(self.widths.values()))
        with torch.no_grad():
            self.heads.weight *= 0.1
        times = torch.as_tensor(T_IDXS, dtype=torch.float32)
        grown = torch.log(0.05 + 0.3 * times + 0.05 * times**2)
        self.log_std = nn.Parameter(grown[:, None].repeat(m, 1, 15))
        #: Where the features come from that it is trained on: the task, or ``vision``.
        self.features = KINEMATIC_DRIVER
        #: The task in which it is trained.
        self.task = KINEMATIC_DRIVER
        self.follow(self.contract)

    def follow(self, contract_: Contract) -> None:
        """Plan for the rule by which a contract reads a command from a plan."""
        self.contract = contract_
        self.shape = PlanShape(contract_.command)
        self.t_longitudinal = float(action_times(contract_.command, 0.0, LONGITUDINAL_DELAY)[1])

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the tensors of the heads, each ``(B, *shape)``."""
        if "features" not in self.feeds:
            raise InputError(f"{self.contract.id} is one network with its vision: use Supercombo")
        given = dict(zip(self.model.inputs, inputs, strict=True))
        named = {feed: given[name] for feed, name in self.feeds.items()}
        return self.drive(
            named["features"],
            named["desire"],
            named["traffic_convention"],
            named.get("lateral_control_params"),
        )

    def drive(
        self,
        features: Tensor,
        desire: Tensor,
        traffic: Tensor,
        car: Tensor | None = None,
        times: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the tensors of the heads for a window (B, 25, 512) and the other inputs."""
        return self.tensors(self.read_window(features, desire, traffic, car, times))

    def read_window(
        self,
        features: Tensor,
        desire: Tensor,
        traffic: Tensor,
        car: Tensor | None = None,
        times: Tensor | None = None,
    ) -> Parts:
        """Return what the heads say of a window (B, 25, 512); see :meth:`parts`."""
        frames = self.frames(features, desire)
        state = self.states(frames)[-1]
        last = Frames(*(part[:, -1] for part in frames))
        return self.parts(state, last, traffic, car, times)

    def frames(self, features: Tensor, desire: Tensor) -> Frames:
        """Return what is kept of frames: features (..., 512) and the desire's rows (..., 8)."""
        reduced = nn.functional.silu(self.reduce(features))
        gates = self.input_norm(self.input_gates(torch.cat([reduced, desire], dim=-1)))
        present = (features.abs().amax(-1, keepdim=True) * 1e4).clamp(max=1.0)
        return Frames(reduced, gates, self.read(features), present)

    def states(self, frames: Frames) -> list[Tensor]:
        """Return the states (B, H) after each of the frames (B, T, ...), from zero."""
        return unrolled(
            frames.gates, frames.present, lambda state: self.state_norm(self.state_gates(state))
        )

    def parts(
        self,
        state: Tensor,
        frame: Frames,
        traffic: Tensor,
        car: Tensor | None = None,
        times: Tensor | None = None,
    ) -> Parts:
        """Return what the heads say.

        Args:
            state: State after the window, (..., H).
            frame: The window's last frame.
            traffic: (..., 2).
            car: ``lateral_control_params`` (..., 2), where the contract has them.
            times: ``action_t`` (..., 2), where the contract has it.
        """
        rule = self.contract.command
        direct = [traffic]
        if car is not None:
            direct += [car[..., :1] / _SPEED, car[..., 1:] / 0.3]
        trunk = self.trunk(torch.cat([state, frame.reduced, *direct], dim=-1))
        said = dict(
            zip(self.widths, self.heads(trunk).split(list(self.widths.values()), -1), strict=True)
        )
        now = (said["now"] + frame.readout).unbind(-1)
        if car is None:
            speed, delay = read_car(now)
        else:
            speed = car[..., 0]
            delay = car[..., 1] + rule.extra_delay_s
        later = torch.full_like(speed, self.t_longitudinal)
        if times is not None:
            delay, later = times[..., 0], times[..., 1]
        m = (*state.shape[:-1], self.hypotheses)
        near = near_of(rule, said["command"], now, speed, delay, later)
        return Parts(
            near=near,
            delay=near.t_lateral,
            bends=0.3 * said["bends"].reshape(*m, FREE),
            pedals=said["pedals"].reshape(*m, FREE),
            spread=said["spread"].reshape(*m, 15),
            logits=said["logits"],
            curvature_log_std=said["curvature_log_std"] - 6.0,
            desire=said["desire"],
        )

    def plan(self, parts: Parts) -> tuple[Tensor, Tensor]:
        """Return means and log-stds of the hypotheses, (..., M, 33, 15) each."""
        plan = self.shape(parts.near, parts.bends, parts.pedals)
        log_std = (self.log_std + parts.spread[..., None, :]).clamp(-5.0, 5.0)
        return plan, log_std

    def tensors(self, parts: Parts) -> dict[str, Tensor]:
        """Return the named tensors of the contract's heads, each ``(B, *shape)``."""
        plan, log_std = self.plan(parts)
        several = self.model.heads["plan"].kind == "mixture"
        found = {
            "plan": plan if several else plan[..., 0, :, :],
            "plan_log_std": log_std if several else log_std[..., 0, :, :],
            "plan_logits": parts.logits[..., None],
            "desired_curvature": parts.near.curvature[..., None],
            "desired_curvature_log_std": parts.curvature_log_std.clamp(-10.0, 5.0),
            "desire_state_logits": parts.desire,
        }
        wanted = {n for head in self.model.heads.values() for n in head.tensors}
        return {name: values for name, values in found.items() if name in wanted}

    def describe(self) -> dict[str, Any]:
        """Return plain values from which :func:`policy_from` rebuilds the network."""
        return {
            "contract": self.contract.id, "size": asdict(self.size), "features": self.features,
            "task": self.task,
        }  # fmt: skip


def unrolled(gates: Tensor, present: Tensor, recur: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Return the states (B, H) of a GRU after each of T frames, from zero.

    Args:
        gates: What the frames add to reset, update and new state, (B, T, 3 H).
        present: 1 where there is a frame, 0 where the state stays zero, (B, T, 1).
        recur: What a state (B, H) adds to the three, (B, 3 H).
    """
    state = gates.new_zeros(gates.shape[0], gates.shape[2] // 3)
    found = []
    for x, there in zip(gates.unbind(1), present.unbind(1), strict=True):
        (r_x, z_x, n_x), (r_h, z_h, n_h) = x.chunk(3, dim=-1), recur(state).chunk(3, dim=-1)
        z = torch.sigmoid(z_x + z_h)
        n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
        state = there * (n + z * (state - n))
        found.append(state)
    return found


def read_car(now: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return the speed (m/s) and the time of lateral action (s) that a network says itself."""
    return _SPEED * now[0], 0.25 + nn.functional.softplus(0.3 * now[3])


def near_of(
    rule: CommandRule,
    command: Tensor,
    now: tuple[Tensor, ...],
    speed: Tensor,
    delay: Tensor,
    later: Tensor,
) -> Near:
    """Return what a plan begins with, from what a network says; (...) each unless said.

    Args:
        rule: The contract's.
        command: Steering and pedal without unit, (..., 2).
        now: Four values; the second is the acceleration (m/s^2), the third the lateral one.
        speed: m/s.
        delay: When the steering takes effect, s.
        later: When the acceleration takes effect, s.
    """
    square = speed.clamp(min=rule.min_speed) ** 2
    steer, pedal = command.unbind(-1)
    # Smooth bounds, somewhat beyond what the controls let through.
    bound = (LATERAL_ACCELERATION / square).clamp(max=MAX_CURVATURE)
    return Near(
        speed=speed,
        acceleration=now[1],
        yaw_rate=now[2] / speed.clamp(min=1.0),
        curvature=2.0 * torch.tanh(steer / 2.0) * bound,
        pedal=5.0 * torch.tanh(pedal / 5.0),
        t_lateral=delay.clamp(0.05, SHARED),
        t_longitudinal=later.clamp(0.05, SHARED),
    )


def policy_from(describe: Mapping[str, Any], weights: Mapping[str, Tensor]) -> PolicyNet:
    """Return the network that :meth:`PolicyNet.describe` described, with these weights."""
    network = PolicyNet(describe["contract"], PolicySize(**describe["size"]))
    network.load_state_dict(dict(weights))
    network.features = describe.get("features", KINEMATIC_DRIVER)
    network.task = describe.get("task", KINEMATIC_DRIVER)
    return network.eval()


def plan_command(network: PolicyNet, parts: Parts, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the curvature and acceleration that the contract's rule reads from the plan, (...).

    Up to the times of action all hypotheses are the same, so one without shape of its own will do.

    Args:
        network: The policy.
        parts: What its heads say.
        given: ``car``, ``t_lateral`` and ``t_longitudinal``, tensors or arrays.
    """
    rule = network.contract.command
    flat = torch.zeros_like(parts.bends[..., :1, :])
    plan = network.shape(parts.near, flat, flat)[..., 0, :, :]
    v, t_lateral, t_longitudinal = (
        torch.as_tensor(x, dtype=torch.float32)
        for x in (given["car"][..., 0], given["t_lateral"], given["t_longitudinal"])
    )
    return plan_curvature(rule, plan, v, t_lateral), plan_acceleration(rule, plan, t_longitudinal)


class Supercombo(nn.Module):
    """A vision network and a policy as the one network of the 2026-06 contract.

    Takes its inputs in their order. For the 2026-09 form, wrap the packed network in
    :class:`~steerlab.openpilot.in_graph.HistoryInGraph`.

    Args:
        vision: Takes ``img`` and ``big_img``, returns the named tensors of the vision heads,
            ``hidden_state`` (B, 512) among them.
        policy: A policy for the contract.
    """

    def __init__(self, vision: nn.Module, policy: PolicyNet) -> None:
        super().__init__()
        self.vision, self.policy = vision, policy

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the tensors of all heads."""
        given = dict(zip(self.policy.model.inputs, inputs, strict=True))
        named = {feed: given[name] for feed, name in self.policy.feeds.items()}
        seen = self.vision(named["image"], named["wide_image"])
        features = torch.cat([named["previous_features"], seen["hidden_state"][:, None]], dim=1)
        return seen | self.policy.drive(
            features, named["desire"], named["traffic_convention"], times=named["action_t"]
        )


class Memory:
    """The consumer's window for N rows, in the network's own terms: for fast rollouts in torch.

    It keeps each frame's part of the recurrence, which depends on that frame only, and replays the 25
    strided frames from zero: the same numbers as a call with the whole window, at a fraction of the
    cost. The weights must not change between two calls of :meth:`reset`.

    Args:
        network: The policy.
        rows: Number of rows.
    """

    def __init__(self, network: PolicyNet, rows: int) -> None:
        self.network, self.rows = network, rows
        units = 3 * network.size.hidden
        self.gates = torch.zeros(100, rows, units)
        self.present = torch.zeros(100, rows, 1)
        self.now = 0

    def reset(self, rows: Any = slice(None)) -> None:
        """Empty the queues of ``rows``."""
        self.gates[:, rows] = 0.0
        self.present[:, rows] = 0.0

    @torch.no_grad()
    def step(self, features: Tensor, desire: Tensor, traffic: Tensor, car: Tensor | None) -> Parts:
        """Take a frame (N, 512), its desire bin (N, 8) and inputs; return what the heads say."""
        frame = self.network.frames(features, desire)
        self.now = (self.now + 1) % 100
        self.gates[self.now], self.present[self.now] = frame.gates, frame.present
        slots = torch.as_tensor((self.now - np.arange(96, -1, -4)) % 100)
        window = Frames(
            frame.reduced,
            self.gates[slots].transpose(0, 1),
            frame.readout,
            self.present[slots].transpose(0, 1),
        )
        state = self.network.states(window)[-1]
        return self.network.parts(state, frame, traffic, car)
