"""A picture of the cart-pole, drawn with numpy alone so that a video costs no plotting library."""

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.inverted_pendulum.dynamics import BALANCE_ANGLE

WIDTH, HEIGHT = 600, 300
METRES = 4.0  # width of the picture
SCALE = WIDTH / METRES
SKY, RAIL, CART, POLE, GOAL, BLOCK = (
    np.array(c, dtype=np.uint8)
    for c in (
        (245, 246, 248),
        (120, 120, 130),
        (45, 70, 140),
        (0, 150, 160),
        (225, 130, 40),
        (235, 200, 200),
    )
)


def draw(
    state: NDArray[np.float64],
    pole_length: float,
    goals: NDArray[np.float64],
    blocked: float = 0.0,
) -> NDArray[np.uint8]:
    """Return the picture (300, 600, 3) of a state (4,); it follows a cart that leaves +-2 m.

    Args:
        state: Cart position m, pole angle rad, and their rates.
        pole_length: Length of the pole in m.
        goals: Positions in m to mark on the rail.
        blocked: Half-width in m of the middle that is to be shaded.
    """
    position, theta = float(state[0]), float(state[1])
    centre = position - np.clip(position, -METRES / 2 + 0.4, METRES / 2 - 0.4)
    column, row = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    x = (column - WIDTH / 2) / SCALE + centre  # m, of every pixel
    z = (HEIGHT * 0.72 - row) / SCALE  # m above the rail
    picture = np.broadcast_to(SKY, (HEIGHT, WIDTH, 3)).copy()
    picture[np.abs(x) < blocked] = BLOCK
    picture[np.abs(z) < 0.02] = RAIL
    ticks = (np.abs(x - np.round(x)) < 0.01) & (np.abs(z) < 0.06)
    picture[ticks] = RAIL
    for goal in goals:
        picture[(np.abs(x - goal) < 0.03) & (z > -0.35) & (z < -0.08)] = GOAL
    picture[(np.abs(x - position) < 0.2) & (np.abs(z) < 0.1)] = CART
    angle = theta - BALANCE_ANGLE
    along = (x - position) * np.sin(angle) + z * np.cos(angle)
    across = (x - position) * np.cos(angle) - z * np.sin(angle)
    nearest = np.clip(along, 0.0, pole_length)
    picture[np.hypot(along - nearest, across) < 0.049] = POLE
    return picture
