"""What a recorded drive teaches: the teacher's command, and the plan that hindsight shows."""

import math

import torch
from torch import Tensor, nn

from steerlab.agents.policynet.model import Frames, PolicyNet
from steerlab.agents.policynet.plan import Near
from steerlab.agents.policynet.rollout import FRAME, Drive, plan_command
from steerlab.envs.kinematic_driver.dynamics import DT
from steerlab.exporters.openpilot.contracts import PLAN_COLUMNS, T_IDXS

WINDOW, STRIDE = 25, 4
#: Columns of the plan that a flat road moves.
MOVING = [PLAN_COLUMNS.index(n) for n in ("x", "y", "vx", "vy", "ax", "ay", "yaw", "yaw_rate")]


def imitation_loss(
    network: PolicyNet, drive: Drive, steps: Tensor, rows: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the losses of the windows that end at ``steps`` (B,) of ``rows`` (B,).

    Every frame of a window counts, with the history that it has inside the window, the last one
    more. The plan is learned at the last frame and at one other.
    """
    rule = network.contract.command
    at = steps[:, None] - STRIDE * torch.arange(WINDOW - 1, -1, -1)
    known = at >= drive.first[steps, rows][:, None]
    at = at.clamp(min=0)
    who = rows[:, None].expand_as(at)
    features = drive.features[at, who].float() * known[..., None]
    given = FRAME.split(drive.frames[at, who])
    frames = network.frames(features, given["desire"] * known[..., None])
    states = torch.stack(network.states(frames), dim=1)
    car = given["car"] if "lateral_control_params" in network.feeds else None
    parts = network.parts(states, frames, given["traffic"], car)

    weight = known.float()
    weight[:, -1] *= 5.0
    weight = weight / weight.sum()
    delay = given["car"][..., 1] + rule.extra_delay_s
    times = {
        "car": given["car"],
        "t_lateral": delay,
        "t_longitudinal": torch.full_like(delay, network.t_longitudinal),
    }
    curvature, pedal = plan_command(network, parts, times)
    speed = given["car"][..., 0].clamp(min=rule.min_speed)
    bound = (3.6 / speed**2).clamp(max=0.2)
    wanted = given["wanted"]
    huber = nn.functional.smooth_l1_loss
    steer_error = (curvature - wanted[..., 0]) / bound
    steer = huber(steer_error, torch.zeros_like(steer_error), reduction="none", beta=0.5)
    brake = huber(pedal, wanted[..., 1], reduction="none", beta=0.5)
    true = {name: given[name][..., 0] for name in ("speed", "acceleration", "yaw_rate")}
    now = (parts.near.acceleration - true["acceleration"]) ** 2
    now = now + ((parts.near.yaw_rate - true["yaw_rate"]) * speed) ** 2
    if car is None:
        now = now + (parts.near.speed - true["speed"]) ** 2
        now = now + 10 * (parts.delay - delay) ** 2
    desire = nn.functional.cross_entropy(
        parts.desire.flatten(0, 1), given["desired"][..., 0].long().flatten(), reduction="none"
    ).unflatten(0, at.shape)
    log_std = parts.curvature_log_std[..., 0].clamp(-10.0, 5.0)
    surprise = 0.5 * ((wanted[..., 0] - curvature.detach()) * torch.exp(-log_std)) ** 2 + log_std
    each = {"steer": steer, "pedal": brake, "now": now, "desire": desire, "spread": surprise}
    losses = {name: (weight * values).sum() for name, values in each.items()}

    other = torch.randint(0, WINDOW - 1, (len(steps),), generator=generator)
    batch = torch.arange(len(steps))
    losses["plan"] = 0.5 * sum(
        _plan_loss(network, drive, at[batch, i], rows, states[batch, i],
                   Frames(*(p[batch, i] for p in frames)), known[batch, i])
        for i in (torch.full_like(other, WINDOW - 1), other)
    )  # fmt: skip
    scale = {"steer": 10.0, "pedal": 1.0, "now": 0.2, "desire": 0.1, "spread": 0.01, "plan": 0.1}
    losses["loss"] = sum(scale[name] * value for name, value in losses.items())
    return losses


def _plan_loss(
    network: PolicyNet,
    drive: Drive,
    steps: Tensor,
    rows: Tensor,
    state: Tensor,
    frame: Frames,
    known: Tensor,
) -> Tensor:
    """Return the mixture's negative log-likelihood of what was really driven, a value (mean)."""
    given = FRAME.split(drive.frames[steps, rows])
    car = given["car"] if "lateral_control_params" in network.feeds else None
    parts = network.parts(state, frame, given["traffic"], car)
    # The beginning is the teacher's to say, not hindsight's.
    parts = parts._replace(near=Near(*(x.detach() for x in parts.near)))
    mean, log_std = (x[..., MOVING] for x in network.plan(parts))
    target, mask = hindsight(drive, steps, rows)
    mask = (mask & known[:, None])[:, None, :, None]
    error = torch.where(mask, target[:, None][..., MOVING] - mean, 0.0) * torch.exp(-log_std)
    each = -0.5 * error.clamp(-30, 30) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
    likelihood = (each * mask).sum((-2, -1)) + torch.log_softmax(parts.logits, -1)
    count = (mask.sum((-2, -1)) * len(MOVING)).clamp(min=1)
    return -(torch.logsumexp(likelihood, -1, keepdim=True) / count).mean()


def hindsight(drive: Drive, steps: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the plans (B, 33, 15) that were driven from ``steps`` on, and where they are known."""
    at = steps[:, None] + torch.as_tensor(T_IDXS / DT, dtype=torch.float32)
    end = drive.last[steps, rows][:, None]
    known = at <= end + 1e-3
    before = torch.minimum(at.floor().long(), (end - 1).clamp(min=0))
    share = (at - before).clamp(0, 1)[..., None]
    who = rows[:, None].expand_as(before)
    motion = drive.frames[..., FRAME["x"].start : FRAME["yaw_rate"].stop]
    after = torch.minimum(before + 1, end)
    values = motion[before, who] + share * (motion[after, who] - motion[before, who])
    x, y, yaw, speed, pull, yaw_rate = values.unbind(-1)
    here = motion[steps, rows]
    cosine, sine = torch.cos(here[:, 2:3]), torch.sin(here[:, 2:3])
    x, y, yaw = x - here[:, :1], y - here[:, 1:2], yaw - here[:, 2:3]
    forward, side, turning = torch.cos(yaw), torch.sin(yaw), speed * yaw_rate
    columns = {
        "x": cosine * x + sine * y,
        "y": cosine * y - sine * x,
        "vx": speed * forward,
        "vy": speed * side,
        "ax": pull * forward - turning * side,
        "ay": pull * side + turning * forward,
        "yaw": yaw,
        "yaw_rate": yaw_rate,
    }
    zero = torch.zeros_like(yaw)
    return torch.stack([columns.get(n, zero) for n in PLAN_COLUMNS], -1), known
