"""How far plans are from the teacher's: ADE and FDE of the likeliest hypothesis and of the best of all.

Displacements are in the plane, m. FDE is the displacement at a time ahead, ADE its mean over every tenth
of a second up to there; in between the plan's times it is linear. Only frames count whose label goes that
far.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from steerlab.agents.drivingpolicy.data import Windows
from steerlab.agents.drivingpolicy.losses import read_command
from steerlab.agents.drivingpolicy.network import DrivingPolicy, PolicyOutputs
from steerlab.agents.supervised import Batch
from steerlab.openpilot.contracts import T_IDXS

HORIZONS = (2.0, 4.0)  # s
_GRID = 0.1  # s

#: Says plans in the plane (B, M, 33, 2) and logits (B, M) for a batch.
Planner = Callable[[Batch], tuple[Tensor, Tensor]]


def plan_errors(planner: Planner, data: Windows, batch: int = 512) -> dict[str, float]:
    """Return ``ade_2s``, ``fde_2s``, .. of the likeliest plan, and ``best_ade_2s``, .. of the best (m)."""
    found: dict[str, list[Tensor]] = {}
    for indices in torch.arange(len(data)).split(batch):
        given = data[indices]
        with torch.no_grad():
            plans, logits = planner(given)
        away = displacements(plans, given["plan"][:, None, :, :2])  # (B, M, times)
        top = logits.argmax(-1)
        for seconds in HORIZONS:
            steps = round(seconds / _GRID)
            known = _reach(given["known"]) >= seconds - 1e-6
            part = away[known, :, :steps]
            likeliest = part[torch.arange(len(part)), top[known]]
            for name, value in (
                ("ade", likeliest.mean(-1)), ("fde", likeliest[:, -1]),
                ("best_ade", part.mean(-1).amin(1)), ("best_fde", part[:, :, -1].amin(1)),
            ):  # fmt: skip
                found.setdefault(f"{name}_{seconds:g}s", []).append(value)
    joined = {name: torch.cat(values) for name, values in found.items()}
    return {n: float(v.mean()) if len(v) else float("nan") for n, v in joined.items()}


def displacements(plans: Tensor, truth: Tensor) -> Tensor:
    """Return distances (..., times) of plans (..., 33, 2) from the true ones every 0.1 s up to 4 s."""
    times = np.arange(1, round(HORIZONS[-1] / _GRID) + 1) * _GRID
    rows = np.stack([np.interp(times, T_IDXS, row) for row in np.eye(len(T_IDXS))])
    weights = torch.as_tensor(rows, dtype=plans.dtype)  # (33, times)
    return ((plans - truth).transpose(-1, -2) @ weights).norm(dim=-2)


def _reach(known: Tensor) -> Tensor:
    """Return how far (s) labels go, (B,) from (B, 33); what is known begins at now."""
    return (known * torch.as_tensor(T_IDXS, dtype=known.dtype)).amax(-1)


def network_planner(network: DrivingPolicy, knows_car: bool = True) -> Planner:
    """Return what a network plans.

    Args:
        network: The policy.
        knows_car: Whether it gets speed and delay, as openpilot 0.10.0 gives them.
    """

    def plan(batch: Batch) -> tuple[Tensor, Tensor]:
        plans, _, logits = network.hypotheses(_predicted(network, batch, knows_car)[0])
        return plans[..., :2].cpu(), logits.cpu()

    return plan


def _predicted(
    network: DrivingPolicy, batch: Batch, knows_car: bool = True
) -> tuple[PolicyOutputs, Tensor]:
    """Return what a network says of a batch, on its device, and speed and delay as it got them."""
    device = network.log_std.device
    features, desire, traffic, car = (
        batch[name].to(device) for name in ("features", "desire", "traffic", "car")
    )
    car = car + car.new_tensor([0.0, network.contract.command.lat_smooth_s])
    known = car.new_full((len(car), 1), float(knows_car))
    return network.predict(features, desire, traffic, car, known), car


def constant_turn(batch: Batch) -> tuple[Tensor, Tensor]:
    """Plan to go on as now: true speed and yaw rate held."""
    speed, yaw_rate = batch["car"][:, :1], batch["now"][:, 1:2]
    times = torch.as_tensor(T_IDXS, dtype=speed.dtype)
    turned = yaw_rate * times
    small = turned.abs() < 1e-4
    angle = torch.where(small, torch.ones_like(turned), turned)
    forward = torch.where(small, torch.ones_like(turned), torch.sin(angle) / angle)
    side = torch.where(small, 0.5 * turned, (1.0 - torch.cos(angle)) / angle)
    way = speed * times
    return torch.stack([way * forward, way * side], -1)[:, None], speed.new_zeros(len(speed), 1)


def command_errors(network: DrivingPolicy, data: Windows) -> dict[str, float]:
    """Return the mean errors of the command: ``lateral`` and ``longitudinal``, m/s^2."""
    errors = []
    for indices in torch.arange(len(data)).split(512):
        batch = data[indices]
        with torch.no_grad():
            outputs, car = _predicted(network, batch)
            asked = torch.stack(read_command(network, outputs.near, car), 1).cpu()
        missed = (asked - batch["command"]).abs()
        missed[:, 0] *= batch["car"][:, 0] ** 2
        errors.append(missed)
    lateral, longitudinal = torch.cat(errors).mean(0).tolist()
    return {"lateral": lateral, "longitudinal": longitudinal}
