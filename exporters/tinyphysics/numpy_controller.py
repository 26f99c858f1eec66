"""The policy of steerlab for comma's controls challenge: one file, numpy alone.

Put it into ``controllers/`` of commaai/controls_challenge and name it with ``--test_controller``.
It uses nothing but the arguments of ``update``: no knowledge of routes, simulator or noise.
"""

import base64
from typing import Any

import numpy as np

# What follows is filled in by the export: sizes, and float32 arrays one after the other in base64.
SHAPE: dict[str, int] = {"hidden": 0, "preview": 0, "history": 0, "delta": True}
WEIGHTS = ""

CONTEXT = 20  # steps of its own past that it keeps
WARMUP_CALLS = 80  # calls whose answers the simulator replaces by a logged steer
COARSE = (1, 3, 5, 8, 12, 16, 22, 30, 39, 49)  # steps ahead at which slow signals are seen
STEER_PER_LATACCEL = 0.58
ACTION_SCALE = 0.1
STEER_LIMIT = 2.0


class Controller:
    """Steers with a small network from the preview and from its own history."""

    def __init__(self) -> None:
        hidden, self.preview, self.history = (SHAPE[k] for k in ("hidden", "preview", "history"))
        self.coarse = np.array([k for k in COARSE if k < self.preview])
        inputs = 2 * self.preview + 3 * len(self.coarse) + 2 * (self.history - 1) + 10
        shapes = [
            (hidden + 1, inputs),
            (hidden + 1,),
            (hidden, hidden),
            (hidden,),
            (1, hidden),
            (1,),
        ]
        stored = np.frombuffer(base64.b64decode(WEIGHTS), dtype="<f4").astype(np.float64)
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        self.layers = [
            a.reshape(s) for a, s in zip(np.split(stored, ends[:-1]), shapes, strict=True)
        ]
        self.steer = np.zeros(CONTEXT)
        self.lataccel = np.zeros(CONTEXT)
        self.calls = 0

    def update(
        self, target_lataccel: float, current_lataccel: float, state: Any, future_plan: Any
    ) -> float:
        """Return the steer for the next step."""
        self.lataccel[:-1] = self.lataccel[1:]
        self.lataccel[-1] = current_lataccel
        if self.calls < WARMUP_CALLS:
            steer = float(STEER_PER_LATACCEL * (target_lataccel - state.roll_lataccel))
        else:
            now = (target_lataccel, state.roll_lataccel, state.v_ego, state.a_ego)
            road = [self.ahead(first, rest) for first, rest in zip(now, future_plan, strict=True)]
            steer = self.policy(*road)
        self.calls += 1
        self.steer[:-1] = self.steer[1:]
        self.steer[-1] = steer
        return steer

    def ahead(self, now: float, plan: Any) -> Any:
        """Return a signal now and in the steps of the preview, the last known one repeated."""
        values = np.empty(self.preview)
        values[0] = now
        known = min(len(plan), self.preview - 1)
        values[1 : known + 1] = plan[:known]
        values[known + 1 :] = values[known]
        return values

    def policy(self, target: Any, roll: Any, v: Any, a: Any) -> float:
        """Return the network's steer."""
        steer, now, last = self.steer[-1], self.lataccel[-1], self.lataccel[-2]
        past = slice(-self.history, -1)
        slowness = 1 / (np.maximum(v, 0.0) + 2)
        x = np.concatenate(
            (
                target - now,
                (target - roll - (now - roll[0])) * slowness,
                roll[self.coarse] - roll[0],
                v[self.coarse] - v[0],
                a[self.coarse],
                (roll[0], v[0], slowness[0], a[0]),
                self.steer[past] - steer,
                self.lataccel[past] - now,
                (now, steer, steer - STEER_PER_LATACCEL * (now - roll[0])),
                np.arcsinh((20 * (now - last), 5 * now, 5 * steer)),
            )
        )
        first, first_bias, second, second_bias, third, third_bias = self.layers
        sums = first @ x + first_bias
        hidden = silu(second @ silu(sums[:-1]) + second_bias)
        answer = sums[-1] + (third @ hidden + third_bias)[0]
        new = steer + ACTION_SCALE * answer if SHAPE["delta"] else answer
        return float(min(max(new, -STEER_LIMIT), STEER_LIMIT))


def silu(x: Any) -> Any:
    """Return x times its logistic function."""
    return x / (1 + np.exp(-x))
