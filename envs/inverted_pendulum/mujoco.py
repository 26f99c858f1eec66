"""The same task in MuJoCo, for parity tests and benchmarks; needs the extra ``mujoco``."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.inverted_pendulum.env import ANGLE_LIMIT, SLIDER_LIMIT
from steerlab.errors import InputError

STOCK_RANGE = 'name="slider" pos="0 0 0" range="-1 1"'


def make_mujoco(reset_noise: float = 0.5, **kwargs: Any) -> Any:
    """Return gymnasium's ``InvertedPendulum-v5`` with the limits of the wide task.

    The packaged model is read, its slider range replaced, and the result handed over as a file of
    its own; no installed file is touched.

    Args:
        reset_noise: Half-width of the uniform start state.
        kwargs: Arguments of ``InvertedPendulumEnv``.

    Raises:
        InputError: MuJoCo is not installed, or the packaged model is not the one expected.
    """
    try:
        from gymnasium.envs.mujoco import inverted_pendulum_v5
    except Exception as error:
        raise InputError(
            'MuJoCo is not installed; pip install "steerlab[mujoco]" to compare with it'
        ) from error

    packaged = Path(inverted_pendulum_v5.__file__).parent / "assets" / "inverted_pendulum.xml"
    text = packaged.read_text(encoding="utf-8")
    wide = text.replace(STOCK_RANGE, STOCK_RANGE.replace("-1 1", f"-{SLIDER_LIMIT} {SLIDER_LIMIT}"))
    if wide == text:
        raise InputError(
            f"{str(packaged)!r} has no {STOCK_RANGE!r}; use a gymnasium whose model has it"
        )

    class WideInvertedPendulum(inverted_pendulum_v5.InvertedPendulumEnv):
        """The stock task with another angle limit."""

        def step(self, action: NDArray[np.float32]) -> Any:
            observation, _, _, _, info = super().step(action)
            terminated = bool(
                not np.isfinite(observation).all() or abs(observation[1]) > ANGLE_LIMIT
            )
            return observation, float(not terminated), terminated, False, info

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "inverted_pendulum_wide.xml")
        file.write_text(wide, encoding="utf-8")
        return WideInvertedPendulum(xml_file=str(file), reset_noise_scale=reset_noise, **kwargs)
