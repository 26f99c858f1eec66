"""A plan in openpilot's 15 columns from a few numbers, so that its columns fit one another.

The yaw rate and the acceleration along the path are piecewise linear in time. Each starts at what
the car does now and runs straight to a value at the time of action, which is set such that the
contract's rule reads the wanted command from the plan. From :data:`SHARED` on that fades, and the
hypotheses part. Yaw, speed, velocity and position are the integrals.

The fading is for float32's sake: a yaw rate held over ten seconds would multiply its rounding until
the position at the far end differed by 3e-5 between torch and onnxruntime.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steerlab.openpilot.commands import at_action_time
from steerlab.openpilot.contracts import PLAN_COLUMNS, T_IDXS, CommandRule

SHARED = 1.0  # s, up to here all hypotheses are the same: whichever is best, the command is one
FADED = 2.2  # s, from here on nothing is left of the command
#: Times at which a hypothesis has values of its own, s.
KNOTS = np.array([SHARED, 1.5, 2.2, 3.2, 4.6, 6.4, 8.2, 10.0])
FREE = len(KNOTS) - 1
_READ = ("ax", "ay", "yaw", "yaw_rate")


class Near(NamedTuple):
    """What the plan begins with, (...) each."""

    speed: Tensor  # m/s, now
    acceleration: Tensor  # m/s^2, now
    yaw_rate: Tensor  # rad/s, now
    curvature: Tensor  # 1/m, commanded
    pedal: Tensor  # m/s^2, commanded
    t_lateral: Tensor  # s
    t_longitudinal: Tensor  # s


class PlanShape(nn.Module):
    """Turns commands and shapes into plans.

    Args:
        rule: How the contract reads a command from a plan.
    """

    def __init__(self, rule: CommandRule) -> None:
        super().__init__()
        self.rule = rule
        hats, integrals = _hats()
        fade = np.clip((FADED - T_IDXS) / (FADED - SHARED), 0.0, 1.0)
        late = np.clip(T_IDXS, SHARED, FADED) - SHARED
        faded = np.minimum(T_IDXS, SHARED) + late - 0.5 * late**2 / (FADED - SHARED)
        steps = np.diff(T_IDXS)
        trapezoid = np.zeros((len(T_IDXS), len(T_IDXS)))
        for i, step in enumerate(steps):
            trapezoid[i + 1 :, i] += step / 2
            trapezoid[i + 1 :, i + 1] += step / 2
        constants = {
            "t": T_IDXS, "fade": fade, "faded": faded, "hats": hats, "integrals": integrals,
            "sum": trapezoid.T,
        }  # fmt: skip
        for name, values in constants.items():
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.float32), False)
        self.t: Tensor
        self.fade: Tensor
        self.faded: Tensor  # the integral of it
        self.hats: Tensor
        self.integrals: Tensor
        self.sum: Tensor

    def forward(self, near: Near, bends: Tensor, pedals: Tensor) -> Tensor:
        """Return plans (..., M, 33, 15).

        Args:
            near: What all hypotheses begin with, (...) each.
            bends: Yaw rate (rad/s) at the later ``KNOTS``, besides what fades, (..., M, FREE).
            pedals: The same of the acceleration (m/s^2), (..., M, FREE).
        """
        yaw_rate, yaw, pull, speed = self.begin(near)
        yaw_rate = yaw_rate[..., None, :] + bends @ self.hats
        yaw = yaw[..., None, :] + bends @ self.integrals
        pull = pull[..., None, :] + pedals @ self.hats
        speed = (speed[..., None, :] + pedals @ self.integrals).clamp(min=0.0)
        cosine, sine = torch.cos(yaw), torch.sin(yaw)
        forward, side = speed * cosine, speed * sine
        turning = speed * yaw_rate
        columns = {
            "x": forward @ self.sum,
            "y": side @ self.sum,
            "vx": forward,
            "vy": side,
            "ax": pull * cosine - turning * sine,
            "ay": pull * sine + turning * cosine,
            "yaw": yaw,
            "yaw_rate": yaw_rate,
        }
        zero = torch.zeros_like(yaw)
        return torch.stack([columns.get(name, zero) for name in PLAN_COLUMNS], dim=-1)

    def read(self, plan: Tensor) -> tuple[Tensor, Tensor]:
        """Return bends and pedals (..., FREE) of plans (..., 33, 15) of this shape.

        From :data:`SHARED` on, what a plan begins with only fades, whatever it was.
        """
        ax, ay, yaw, yaw_rate = (plan[..., PLAN_COLUMNS.index(n)] for n in _READ)
        pull = ax * torch.cos(yaw) + ay * torch.sin(yaw)
        later = self.t >= SHARED
        basis = torch.cat([self.fade[None], self.hats])[:, later].double()
        inverse = torch.linalg.pinv(basis)  # (33 - k, 1 + FREE)
        bends, pedals = (
            (values[..., later].double() @ inverse)[..., 1:].to(plan.dtype)
            for values in (yaw_rate, pull)
        )
        return bends, pedals

    def begin(self, near: Near) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return yaw rate, yaw, acceleration and speed along the path over T_IDXS, (..., 33)."""
        start = near.yaw_rate[..., None]
        ramp, area = self._ramp(near.t_lateral)
        reached = at_action_time(self.rule, area, near.t_lateral, 0.0)
        v = near.speed.clamp(min=self.rule.min_speed)
        wanted = (0.5 * near.t_lateral * (v * near.curvature - near.yaw_rate) / reached)[..., None]
        yaw_rate = start * self.fade + wanted * ramp
        yaw = start * self.faded + wanted * area

        # The rule looks at the speed along the present heading: what turning takes is made up for.
        t, cosine = near.t_longitudinal, torch.cos(yaw)
        start = near.acceleration[..., None]
        ramp, area = self._ramp(t)
        held = near.speed[..., None] + start * self.faded
        reached = at_action_time(self.rule, area * cosine, t, 0.0)
        lacking = near.speed + 0.5 * t * (near.pedal + near.acceleration)
        lacking = lacking - at_action_time(self.rule, held * cosine, t, near.speed)
        wanted = (lacking / reached.clamp(min=1e-3))[..., None]
        return yaw_rate, yaw, start * self.fade + wanted * ramp, held + wanted * area

    def _ramp(self, end: Tensor) -> tuple[Tensor, Tensor]:
        """Return what rises from 0 now to 1 at ``end`` (...) and fades, and its integral."""
        end = end[..., None]
        before = torch.minimum(self.t, end)
        rising = before / end
        return rising * self.fade, 0.5 * before * rising + (self.faded - before).clamp(min=0.0)


def _hats() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the hat functions of the later KNOTS over T_IDXS (FREE, 33), and their integrals."""
    fine = np.linspace(0, T_IDXS[-1], 10_001)
    hats = np.stack([np.interp(fine, KNOTS, row) for row in np.eye(len(KNOTS))[1:]])
    steps = 0.5 * (hats[:, 1:] + hats[:, :-1]) * (fine[1] - fine[0])
    integrals = np.concatenate([np.zeros((FREE, 1)), np.cumsum(steps, axis=1)], axis=1)
    at = [np.stack([np.interp(T_IDXS, fine, row) for row in rows]) for rows in (hats, integrals)]
    return at[0], at[1]
