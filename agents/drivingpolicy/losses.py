"""What examples teach the policy: the teacher's command, the motion of now, and the teacher's plan."""

import torch
from torch import Tensor, nn

from steerlab.agents.drivingpolicy.heads import Truth
from steerlab.agents.drivingpolicy.network import DrivingPolicy, PolicyOutputs
from steerlab.agents.policynet.losses import MOVING
from steerlab.agents.policynet.model import LATERAL_ACCELERATION, MAX_CURVATURE, read_car
from steerlab.agents.supervised import Batch
from steerlab.openpilot.commands import plan_acceleration, plan_curvature
from steerlab.openpilot.contracts import T_IDXS
from steerlab.openpilot.plan import FREE, KNOTS, Near

#: Weights of the losses in their sum.
SCALE = {
    "steer": 10.0, "pedal": 1.0, "now": 0.2, "desire": 0.1, "spread": 0.01, "plan": 0.3,
    "choice": 0.1, "flow": 0.3,
}  # fmt: skip
TOO_FAST = 4.0  # weight of an acceleration that is too high, beside one that is too low
BRAKING = 4.0  # what each m/s^2 that the teacher brakes adds to an example's weight of 1
ASKED = 3.0  # what a desire in the window adds to the weight of an example's steering, 1
HIDDEN = 0.5  # share of the examples from which speed and delay are hidden
#: Standard deviations of the errors of a car's speed (m/s) and delay (s).
SENSED = (0.1, 0.02)
LOG_2 = 0.6931


def policy_loss(network: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the losses of a batch of :class:`~steerlab.agents.drivingpolicy.data.Windows`."""
    assert isinstance(network, DrivingPolicy)
    rule = network.contract.command
    car = batch["car"] + batch["car"].new_tensor([0.0, rule.lat_smooth_s])
    count = len(car)
    noise = torch.randn(car.shape, generator=generator, device=car.device)
    known = (torch.rand(count, 1, generator=generator, device=car.device) >= HIDDEN).float()
    told = (car + noise * car.new_tensor(SENSED)).clamp(min=0.0)
    outputs = network.predict(batch["features"], batch["desire"], batch["traffic"], told, known)
    curvature, pedal = read_command(network, outputs.near, car)
    wanted = batch["command"].unbind(-1)
    speed = car[:, 0].clamp(min=rule.min_speed)
    bound = (LATERAL_ACCELERATION / speed**2).clamp(max=MAX_CURVATURE)
    huber = nn.functional.smooth_l1_loss
    log_std = outputs.curvature_log_std[:, 0].clamp(-10.0, 5.0)
    missed = (wanted[0] - curvature.detach()).abs()
    heavy = torch.where(pedal > wanted[1], TOO_FAST, 1.0) * (1.0 + BRAKING * (-wanted[1]).relu())
    asked = 1.0 + ASKED * batch["desire"].amax((1, 2))
    losses = {
        "steer": (
            huber(curvature / bound, wanted[0] / bound, beta=0.5, reduction="none") * asked
        ).mean(),
        # Nearly squared: drivers brake rarely, and a median of what they do would never brake.
        "pedal": (huber(pedal, wanted[1], beta=2.0, reduction="none") * heavy).mean(),
        "now": _motion(outputs, batch, car + car.new_tensor([0.0, rule.extra_delay_s])),
        "desire": nn.functional.cross_entropy(outputs.desire, batch["desired"]),
        "spread": (missed * torch.exp(-log_std) + log_std).mean(),
    }
    # The beginning is the command's to say, not the plan's.
    near = Near(*(x.detach() for x in outputs.near))
    losses |= network.plan_head.loss(outputs.seen, truth_of(network, near, batch), generator)
    losses["loss"] = sum(SCALE[name] * value for name, value in losses.items())  # type: ignore
    return losses


def read_command(network: DrivingPolicy, near: Near, car: Tensor) -> tuple[Tensor, Tensor]:
    """Return the curvature (1/m) and acceleration (m/s^2) that the rule reads from plans, (B,).

    Args:
        network: Whose contract has the rule.
        near: What the plans begin with; up to the times of action they are that alone.
        car: True speed (m/s) and delay with smoothing (s), (B, 2).
    """
    rule = network.contract.command
    flat = car.new_zeros(len(car), 1, 2 * FREE)
    plan = network.plans(near, flat)[:, 0]
    later = torch.full_like(car[:, 0], network.t_longitudinal)
    curvature = plan_curvature(rule, plan, car[:, 0], car[:, 1] + rule.extra_delay_s)
    return curvature, plan_acceleration(rule, plan, later)


def _motion(outputs: PolicyOutputs, batch: Batch, car: Tensor) -> Tensor:
    """Return the loss of what is read from the features of the motion of now, and of the delay."""
    speed, delay = read_car(outputs.now.unbind(-1))
    acceleration, yaw_rate = batch["now"].unbind(-1)
    turning = outputs.near.yaw_rate - yaw_rate
    errors = [
        outputs.near.acceleration - acceleration,
        turning * car[:, 0].clamp(min=1.0),
        speed - car[:, 0],
        3.0 * (delay - car[:, 1]),
    ]
    return sum(nn.functional.smooth_l1_loss(e, torch.zeros_like(e)) for e in errors)  # type: ignore


def truth_of(network: DrivingPolicy, near: Near, batch: Batch) -> Truth:
    """Return what the plan head should say, and how plans that begin with ``near`` are judged."""
    plan, known = batch["plan"][:, None], batch["known"][:, None]
    weight = known[..., None]
    values = (known.sum(-1) * len(MOVING)).clamp(min=1.0)

    def surprise(knots: Tensor, spread: Tensor) -> Tensor:
        found, log_std = network.plans(near, knots), network.log_stds(spread)
        error = ((plan - found) * weight)[..., MOVING].abs()
        each = error * torch.exp(-log_std[..., MOVING]) + log_std[..., MOVING] + LOG_2
        return (each * weight).sum((-2, -1)) / values

    def distance(knots: Tensor) -> Tensor:
        away = ((plan - network.plans(near, knots))[..., :2] * weight).square().sum(-1)
        return torch.sqrt(away + 1e-9).mul(known).sum(-1) / known.sum(-1).clamp(min=1.0)

    bends, pedals = network.shape.read(batch["plan"])
    reach = torch.as_tensor(T_IDXS, dtype=torch.float32, device=plan.device) * batch["known"]
    there = reach.amax(-1, keepdim=True) >= reach.new_tensor(KNOTS[1:])
    return Truth(torch.cat([bends, pedals], -1), there.float().repeat(1, 2), surprise, distance)
