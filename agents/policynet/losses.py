"""What a recorded drive teaches: the teacher's command, and the plan that hindsight shows."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from steerlab.agents.policynet.model import Frames, Parts, PolicyNet, plan_command
from steerlab.agents.policynet.rollout import FRAME, Rollout
from steerlab.envs.kinematic_driver.dynamics import DT
from steerlab.openpilot.contracts import PLAN_COLUMNS, T_IDXS
from steerlab.openpilot.plan import Near

WINDOW, STRIDE = 25, 4
#: Weights of the losses in their sum; of the steering unless a training says otherwise.
SCALE = {"steer": 10.0, "pedal": 1.0, "now": 0.2, "desire": 0.1, "spread": 0.01, "plan": 0.1}
STEER_KNEE = 0.5
PLAN_ERRORS = (2.0, 5.0)  # s ahead
#: Columns of the plan that a flat road moves.
MOVING = [PLAN_COLUMNS.index(n) for n in ("x", "y", "vx", "vy", "ax", "ay", "yaw", "yaw_rate")]


class WindowBatch(NamedTuple):
    """Windows of a drive and what the network makes of them; B windows of 25 frames."""

    at: Tensor  # steps of the frames, (B, 25)
    rows: Tensor  # (B,)
    known: Tensor  # whether the frame belongs to the episode, (B, 25)
    given: dict[str, Tensor]  # what is kept of the frames, (B, 25, *)
    frames: Frames
    states: Tensor  # (B, 25, H)
    parts: Parts
    curvature: Tensor  # what the rule reads from the plan, 1/m, (B, 25)
    pedal: Tensor  # m/s^2
    weight: Tensor  # how much a frame counts, adding up to 1


def random_windows(drive: Rollout, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the last steps and the rows of ``count`` random windows, each (count,).

    The generator is the CPU's wherever the drive is, so that every device draws the same.
    """
    length, rows = drive.first.shape
    steps = torch.randint(0, length, (count,), generator=generator)
    who = torch.randint(0, rows, (count,), generator=generator)
    return steps.to(drive.first.device), who.to(drive.first.device)


def window_batch(network: PolicyNet, drive: Rollout, steps: Tensor, rows: Tensor) -> WindowBatch:
    """Run over the windows that end at ``steps`` (B,) of ``rows`` (B,).

    Every frame of a window says something, with the history that it has inside the window.
    """
    rule = network.contract.command
    at = steps[:, None] - STRIDE * torch.arange(WINDOW - 1, -1, -1, device=steps.device)
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
    return WindowBatch(at, rows, known, given, frames, states, parts, curvature, pedal, weight)


def imitation_loss(
    network: PolicyNet,
    drive: Rollout,
    steps: Tensor,
    rows: Tensor,
    generator: torch.Generator,
    steer_weight: float = SCALE["steer"],
    steer_knee: float = STEER_KNEE,
) -> dict[str, Tensor]:
    """Return the losses of the windows that end at ``steps`` (B,) of ``rows`` (B,).

    Every frame of a window counts, the last one more. The plan is learned at the last frame and at
    one other.

    Args:
        network: The policy.
        drive: What was driven.
        steps: Last steps of the windows.
        rows: Their rows.
        generator: Of the CPU.
        steer_weight: Weight of the steering's loss in the sum.
        steer_knee: Error of the steering, in units of :func:`lateral_bound`, from which its loss grows
            linearly. Below, it is ``error^2 / (2 steer_knee)``.
    """
    seen = window_batch(network, drive, steps, rows)
    wanted = seen.given["wanted"]
    huber = nn.functional.smooth_l1_loss
    steer_error = (seen.curvature - wanted[..., 0]) / lateral_bound(network, seen)
    steer = huber(steer_error, torch.zeros_like(steer_error), reduction="none", beta=steer_knee)
    brake = huber(seen.pedal, wanted[..., 1], reduction="none", beta=0.5)
    losses = {"steer": (seen.weight * steer).sum(), "pedal": (seen.weight * brake).sum()}
    losses |= hindsight_losses(network, drive, seen, generator)
    scale = SCALE | {"steer": steer_weight}
    losses["loss"] = sum(scale[name] * value for name, value in losses.items())  # type: ignore
    return losses


def hindsight_losses(
    network: PolicyNet, drive: Rollout, seen: WindowBatch, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the losses of all that the drive itself teaches: motion, desire, spread and plan."""
    given, parts = seen.given, seen.parts
    speed = given["car"][..., 0].clamp(min=network.contract.command.min_speed)
    true = {name: given[name][..., 0] for name in ("speed", "acceleration", "yaw_rate")}
    now = (parts.near.acceleration - true["acceleration"]) ** 2
    now = now + ((parts.near.yaw_rate - true["yaw_rate"]) * speed) ** 2
    if "lateral_control_params" not in network.feeds:
        delay = given["car"][..., 1] + network.contract.command.extra_delay_s
        now = now + (parts.near.speed - true["speed"]) ** 2
        now = now + 10 * (parts.delay - delay) ** 2
    desire = nn.functional.cross_entropy(
        parts.desire.flatten(0, 1), given["desired"][..., 0].long().flatten(), reduction="none"
    ).unflatten(0, seen.at.shape)
    log_std = parts.curvature_log_std[..., 0].clamp(-10.0, 5.0)
    missed = given["wanted"][..., 0] - seen.curvature.detach()
    surprise = 0.5 * (missed * torch.exp(-log_std)) ** 2 + log_std
    each = {"now": now, "desire": desire, "spread": surprise}
    losses = {name: (seen.weight * values).sum() for name, values in each.items()}
    other = torch.randint(0, WINDOW - 1, (len(seen.rows),), generator=generator)
    other = other.to(seen.rows.device)
    losses["plan"] = 0.5 * sum(
        _plan_loss(network, drive, seen, i) for i in (torch.full_like(other, WINDOW - 1), other)
    )  # fmt: skip
    return losses


def lateral_bound(network: PolicyNet, seen: WindowBatch) -> Tensor:
    """Return the curvature (1/m) that counts as one in the losses, (B, 25)."""
    speed = seen.given["car"][..., 0].clamp(min=network.contract.command.min_speed)
    return (3.6 / speed**2).clamp(max=0.2)


def _plan_loss(network: PolicyNet, drive: Rollout, seen: WindowBatch, frame: Tensor) -> Tensor:
    """Return the mixture's negative log-likelihood of what was really driven, a value (mean).

    Args:
        network: The policy.
        drive: What was driven.
        seen: Windows.
        frame: Frame of each window whose plan is meant, (B,).
    """
    batch = torch.arange(len(frame), device=frame.device)
    steps, rows, known = seen.at[batch, frame], seen.rows, seen.known[batch, frame]
    given = FRAME.split(drive.frames[steps, rows])
    car = given["car"] if "lateral_control_params" in network.feeds else None
    of_frame = Frames(*(part[batch, frame] for part in seen.frames))
    parts = network.parts(seen.states[batch, frame], of_frame, given["traffic"], car)
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


@torch.no_grad()
def plan_error(
    network: PolicyNet, drive: Rollout, generator: torch.Generator, windows: int = 256
) -> dict[str, float]:
    """Return how far (m) the best plan is from what was driven, at some times ahead (mean)."""
    steps, rows = random_windows(drive, windows, generator)
    seen = window_batch(network, drive, steps, rows)
    plan, _ = network.plan(Parts(*(_last(part) for part in seen.parts)))
    plan = plan[torch.arange(windows, device=plan.device), seen.parts.logits[:, -1].argmax(-1)]
    target, known = hindsight(drive, steps, rows)
    away = (plan - target)[..., :2].norm(dim=-1)
    found = {}
    for seconds in PLAN_ERRORS:
        at = int(np.abs(T_IDXS - seconds).argmin())
        there = known[:, at]
        found[f"error_{seconds:g}s"] = float(away[there, at].mean()) if there.any() else 0.0
    return found


def _last(part: Any) -> Any:
    """Return the last frame of what is given for each frame of windows."""
    return Near(*(x[:, -1] for x in part)) if isinstance(part, Near) else part[:, -1]


def hindsight(drive: Rollout, steps: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the plans (B, 33, 15) that were driven from ``steps`` on, and where they are known."""
    at = steps[:, None] + torch.as_tensor(T_IDXS / DT, dtype=torch.float32, device=steps.device)
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
