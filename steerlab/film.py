"""Short films of an environment's pictures."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steerlab.files import atomic_path

#: Pictures a second, one every second step of 0.05 s.
FRAME_RATE = 10


def write_film(frames: Iterable[NDArray[np.uint8]], stem: Path) -> Path:
    """Write pictures (H, W, 3) as mp4 where imageio and its ffmpeg are installed, else as GIF.

    Args:
        frames: The pictures, all of one size.
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
            for picture in frames:
                film.append_data(picture)
        return path
    path = stem.with_suffix(".gif")
    images = [Image.fromarray(picture).quantize(64) for picture in frames]
    with atomic_path(path) as temporary:
        images[0].save(
            temporary, save_all=True, append_images=images[1:],
            duration=1000 // FRAME_RATE, loop=0,
        )  # fmt: skip
    return path
