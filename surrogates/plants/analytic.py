"""A plant in closed form: a stand-in for a learned one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.surrogates.plants.base import CONTEXT, TEMPERATURE, Plant
from steerlab.surrogates.plants.tokens import BINS
from steerlab.types import Singles


class AnalyticPlant(Plant):
    """A small stand-in for a learned plant: dead time, lag and a gain that falls with low speed.

    The lateral acceleration follows the steer through a dead step and a second-order lag; its
    steady state is ``gain(v) * steer`` plus a share of the road's roll. The numbers resemble the
    step response of comma's model (one dead step, half the response at the third step, 1.76 m/s^2
    per unit steer, 2.05 above 30 m/s); the predictive deviation of 0.035 m/s^2 is that model's too.
    It is no model of any car.
    """

    RESPONSE = np.array([0.0, 0.19, 0.35, 0.22, 0.12, 0.07, 0.05])  # share per step of delay
    DEVIATION = 0.035  # m/s^2, of the draws at the sampling temperature
    PERSISTENCE = 0.9  # of a deviation from the steady state, per step
    ROLL_SHARE = 0.3  # of roll_lataccel that is not compensated by the driver's lane

    @staticmethod
    def gain(v_ego: NDArray[Any]) -> NDArray[Any]:
        """Return the steady lateral acceleration per unit steer, m/s^2, at a speed in m/s."""
        return 2.05 * v_ego / (v_ego + 4.0)

    def mean(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the mean (B,) of the next lateral acceleration, m/s^2."""
        steer, roll, speed = (states[..., i].astype(np.float64) for i in range(3))
        wanted = self.gain(np.maximum(speed, 0.0)) * steer + self.ROLL_SHARE * roll
        delays = len(self.RESPONSE)
        weights = self.RESPONSE[::-1]
        # Summed term by term: a matrix product may round a row by the size of its batch.
        now = sum(w * wanted[:, CONTEXT - delays + k] for k, w in enumerate(weights))
        before = sum(w * wanted[:, CONTEXT - delays - 1 + k] for k, w in enumerate(weights))
        return now + self.PERSISTENCE * (BINS[tokens[:, -1]] - before)

    def logits(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> Singles:
        """Return the logits (B, 1024) of the next token."""
        distance = (BINS - self.mean(states, tokens)[:, None]) / self.DEVIATION
        return (-0.5 * TEMPERATURE * distance**2).astype(np.float32)
