"""Short films of an environment's pictures."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steerlab.agents.classical.preview import Driver
from steerlab.agents.policynet.evaluate import MakeDriver
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.randomization import Ranges
from steerlab.files import atomic_path

FRAME_RATE = 10  # pictures a second, one every second step


def write_film(pictures: Iterable[NDArray[np.uint8]], stem: Path) -> Path:
    """Write pictures (H, W, 3) as mp4 where imageio and its ffmpeg are installed, else as GIF.

    Args:
        pictures: The pictures, all of one size.
        stem: Path without a suffix.

    Returns:
        The path of the film.
    """
    if find_spec("imageio") and find_spec("imageio_ffmpeg"):
        import imageio.v2 as imageio

        path = stem.with_suffix(".mp4")
        with (
            atomic_path(path) as temporary,
            imageio.get_writer(temporary, fps=FRAME_RATE, macro_block_size=4) as writer,
        ):
            film: Any = writer
            for picture in pictures:
                film.append_data(picture)
        return path
    path = stem.with_suffix(".gif")
    frames = [Image.fromarray(picture).quantize(64) for picture in pictures]
    with atomic_path(path) as temporary:
        frames[0].save(
            temporary, save_all=True, append_images=frames[1:],
            duration=1000 // FRAME_RATE, loop=0,
        )  # fmt: skip
    return path


def film_drive(
    make_driver: MakeDriver,
    stem: Path,
    seeds: Iterable[int],
    ranges: Ranges | None = None,
    max_episode_steps: int = 500,
) -> Path:
    """Film one episode of KinematicDriver-v0 for each seed, one after the other."""
    env = KinematicDriverVectorEnv(1, max_episode_steps, ranges, render_mode="rgb_array")

    def pictures() -> Iterable[NDArray[np.uint8]]:
        for seed in seeds:
            driver: Driver = make_driver(env)
            observation: Any
            observation, info = env.reset(seed=seed)
            driver.reset(observation, info)
            over, step = False, 0
            while not over:
                observation, _, terminated, truncated, info = env.step(driver(observation, info))
                over = bool(terminated[0] or truncated[0])
                if step % 2 == 0 and not over:
                    yield env.render_row(0)
                step += 1

    return write_film(pictures(), stem)
