"""Where the features of a frame come from: the fixed encoder, or a real vision network."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from steerlab.agents.policynet.features import encode
from steerlab.envs.cameras.geometry import NARROW, WIDE, Pinhole
from steerlab.envs.kinematic_driver.camera import picture
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.errors import InputError
from steerlab.openpilot.contracts import IMAGE_LAG
from steerlab.openpilot.engines import Network
from steerlab.openpilot.history import Queue
from steerlab.openpilot.images import image_pair, pack_rgb
from steerlab.openpilot.outputs import parse
from steerlab.openpilot.runner import PLANES

Array = NDArray[Any]


class FeatureExtractor(Protocol):
    """Makes the features of every row's frame."""

    def reset(self, rows: Any = ...) -> None:
        """Forget the past: new episodes have begun in ``rows``."""

    def __call__(self, env: KinematicDriverVectorEnv, observation: Array) -> Array:
        """Return features (N, 512) of this frame."""


class Encoder:
    """The fixed encoder of :mod:`steerlab.agents.policynet.features`."""

    def reset(self, rows: Any = slice(None)) -> None:
        """Nothing to forget."""

    def __call__(self, env: KinematicDriverVectorEnv, observation: Array) -> Array:
        """Return features (N, 512) of this frame."""
        return encode(observation)


class Vision:
    """A vision network that looks at the rendered road; its hidden state is the feature vector.

    Args:
        network: From :func:`~steerlab.openpilot.engines.load_network`.
        rows: Number of rows.

    Raises:
        InputError: The network has no hidden state.
    """

    def __init__(self, network: Network, rows: int) -> None:
        if "hidden_state" not in network.slices:
            raise InputError(
                f"the vision model has no hidden_state, it has {', '.join(network.slices)}; "
                "give a driving_vision file"
            )
        self.network = network
        self.queues = {
            name: Queue(rows, IMAGE_LAG + 1, PLANES, np.uint8) for name in ("narrow", "wide")
        }

    def reset(self, rows: Any = slice(None)) -> None:
        """Empty the image queues of ``rows``."""
        for queue in self.queues.values():
            queue.clear(rows)

    def __call__(self, env: KinematicDriverVectorEnv, observation: Array) -> Array:
        """Return features (N, 512) of this frame."""
        pairs = {}
        for (name, queue), camera in zip(self.queues.items(), (NARROW, WIDE), strict=True):
            queue.push(planes(env, camera))
            pairs[name] = image_pair(queue.take([0])[:, 0], queue.take([IMAGE_LAG])[:, 0])
        names = self.network.inputs or ("img", "big_img")
        feeds = {n: pairs["wide" if "big" in n else "narrow"] for n in names}
        raw = self.network.engine.run(feeds)["outputs"]
        return parse(self.network.slices, raw)["hidden_state"].astype(np.float32)


def planes(env: KinematicDriverVectorEnv, camera: Pinhole) -> Array:
    """Return what ``camera`` sees in every row, as the vision network takes it, (N, 6, 128, 256)."""
    rows = range(env.num_envs)
    return np.stack([pack_rgb(picture(env.simulator, row, camera)) for row in rows])
