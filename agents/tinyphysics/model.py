"""A policy for TinyPhysics that sees what comma's ``update()`` is given, and no more.

It looks at the target, speed and roll of the next 50 steps and at 20 steps of its own history, and
answers with a change of the steer. Its history is its own: in the warm-up, where the simulator
applies a logged steer that no controller is shown, it notes the steer that the road would need.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from steerlab.envs.tinyphysics.dynamics import STEER_LIMIT
from steerlab.surrogates.plants.base import CONTEXT
from steerlab.surrogates.segments.data import PLAN_STEPS

AHEAD = PLAN_STEPS + 1  # the step that the action decides, and the plan
COARSE = (1, 3, 5, 8, 12, 16, 22, 30, 39, 49)  # steps ahead at which slow signals are seen
#: Steer that holds a lateral acceleration, per m/s^2: least squares over the logged steers of the
#: first 350 public routes (residual 0.09). It fills the history of the warm-up, nothing else.
STEER_PER_LATACCEL = 0.58
ACTION_SCALE = 0.1  # change of the steer per unit of the network's output


class Observation(NamedTuple):
    """What N rows see; the last entry of a history is the newest.

    Attributes:
        road: (N, 50, 4) of now and the plan: target, roll_lataccel (m/s^2), v_ego (m/s), a_ego
            (m/s^2).
        steer: (N, 20) past steers of the policy.
        lataccel: (N, 20) past lateral accelerations, m/s^2.
    """

    road: Tensor
    steer: Tensor
    lataccel: Tensor


class Ahead(NamedTuple):
    """What the first layer makes of the road, which is known before the car has driven it.

    Attributes:
        constant: (..., hidden + 1) of the sums of the first layer.
        per_lataccel: (..., hidden + 1) how they change with the lateral acceleration now.
        roll: (...,) roll_lataccel now, m/s^2.
    """

    constant: Tensor
    per_lataccel: Tensor
    roll: Tensor


@dataclass(frozen=True)
class PolicyShape:
    """Sizes of a policy.

    Attributes:
        hidden: Units of the two layers.
        preview: Steps of the future that it sees, at most 50.
        history: Steps of its past that it sees, 2 to 20.
        delta: Whether the network's output is a change of the steer or the steer.
    """

    hidden: int = 128
    preview: int = AHEAD
    history: int = CONTEXT
    delta: bool = True


class PreviewPolicy(nn.Module):
    """Steer from preview and history: two hidden layers beside a linear path.

    The preview enters relative to the lateral acceleration now, as a difference and as a difference
    of curvatures. Both are linear in it, so the largest part of the first layer can be computed for
    all steps of a road at once (:meth:`look_ahead`), which makes training twice as fast.
    """

    road_mean: Tensor
    road_scale: Tensor
    own_mean: Tensor
    own_scale: Tensor

    def __init__(self, shape: PolicyShape = PolicyShape()) -> None:
        super().__init__()
        self.shape = shape
        self._coarse = [k for k in COARSE if k < shape.preview]
        self._seen_ahead = 2 * shape.preview + 3 * len(self._coarse) + 4
        own = 2 * (shape.history - 1) + 6
        for name, size in (("road", self._seen_ahead), ("own", own)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))
        # The first layer in two parts; its last output is the linear path.
        self.first_road = nn.Linear(self._seen_ahead, shape.hidden + 1)
        self.first_own = nn.Linear(own, shape.hidden + 1, bias=False)
        self.second = nn.Linear(shape.hidden, shape.hidden)
        self.last = nn.Linear(shape.hidden, 1)
        with torch.no_grad():  # start near "hold the steer"
            self.first_road.weight[-1] *= 0.1
            self.first_road.bias[-1] = 0.0
            self.first_own.weight[-1] *= 0.1
            self.last.weight *= 0.1
            self.last.bias.zero_()

    def forward(self, seen: Observation) -> Tensor:
        """Return the steer (N,) in [-2, 2]."""
        return self.act(self.look_ahead(seen.road), seen.steer, seen.lataccel)

    def look_ahead(self, road: Tensor) -> Ahead:
        """Return the road's part of the first layer.

        Args:
            road: (..., 50, 4), see :class:`Observation`.
        """
        seen, slowness = self._road_features(road)
        constant = self.first_road((seen - self.road_mean) / self.road_scale)
        weight = self.first_road.weight / self.road_scale
        split = self.shape.preview
        per_lataccel = -weight[:, :split].sum(dim=1) - slowness @ weight[:, split : 2 * split].T
        return Ahead(constant, per_lataccel, road[..., 0, 1])

    def act(self, ahead: Ahead, steer: Tensor, lataccel: Tensor) -> Tensor:
        """Return the steer (N,) from the road's part and the two histories (N, 20)."""
        own = self._own_features(ahead.roll, steer, lataccel)
        own = self.first_own((own - self.own_mean) / self.own_scale)
        sums = own + torch.addcmul(ahead.constant, lataccel[:, -1:], ahead.per_lataccel)
        hidden = nn.functional.silu(self.second(nn.functional.silu(sums[:, :-1])))
        answer = sums[:, -1] + self.last(hidden)[:, 0]
        new = steer[:, -1] + ACTION_SCALE * answer if self.shape.delta else answer
        return new.clamp(-STEER_LIMIT, STEER_LIMIT)

    def _road_features(self, road: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of the road at no lateral acceleration, and the slowness (..., P)."""
        target, roll, v, a = road[..., : self.shape.preview, :].unbind(-1)
        slowness = 1 / (v.clamp(min=0.0) + 2)
        parts = [
            target,
            (target - roll + roll[..., :1]) * slowness,
            (roll - roll[..., :1])[..., self._coarse],
            (v - v[..., :1])[..., self._coarse],
            a[..., self._coarse],
            roll[..., :1],
            v[..., :1],
            slowness[..., :1],
            a[..., :1],
        ]
        return torch.cat(parts, dim=-1), slowness

    def _own_features(self, roll: Tensor, steer: Tensor, lataccel: Tensor) -> Tensor:
        """Return the features of the car's own past (N, F)."""
        past = slice(-self.shape.history, -1)
        now, last = lataccel[:, -1:], lataccel[:, -2:-1]
        held = warmup_steer(now, roll[:, None])
        return torch.cat(
            [
                steer[:, past] - steer[:, -1:],
                lataccel[:, past] - now,
                now,
                steer[:, -1:],
                steer[:, -1:] - held,
                torch.asinh(20 * (now - last)),
                torch.asinh(5 * now),
                torch.asinh(5 * steer[:, -1:]),
            ],
            dim=1,
        )

    def fit_normaliser(self, seen: Observation) -> None:
        """Set the normalisation from examples; it is kept among the weights."""
        ahead, slowness = self._road_features(seen.road)
        now, preview = seen.lataccel[:, -1:], self.shape.preview
        ahead[:, :preview] -= now
        ahead[:, preview : 2 * preview] -= now * slowness
        own = self._own_features(seen.road[:, 0, 1], seen.steer, seen.lataccel)
        for name, inputs in (("road", ahead), ("own", own)):
            getattr(self, f"{name}_mean").copy_(inputs.mean(dim=0))
            getattr(self, f"{name}_scale").copy_(inputs.std(dim=0).clamp(min=1e-2))


def warmup_steer(lataccel: Tensor, roll: Tensor) -> Tensor:
    """Return the steer that a policy notes for a step whose steer it is not shown."""
    return STEER_PER_LATACCEL * (lataccel - roll)
