"""What openpilot's modeld does around a network: queues in, commands out, 20 times a second.

One :class:`Runner` serves the policy of the split models, the vision network before it, and the
supercombo forms, over torch, onnxruntime or tinygrad. Every closed loop goes through it, so what is
driven is what the car would run.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steerlab.errors import InputError
from steerlab.openpilot.commands import Command, action_times, command, smooth
from steerlab.openpilot.contracts import (
    FEATURES,
    HISTORY,
    IMAGE_LAG,
    STRIDE,
    Contract,
    Input,
    contract,
)
from steerlab.openpilot.engines import Network
from steerlab.openpilot.history import DesirePulse, Queue, desire_rows, one_hot, strided
from steerlab.openpilot.images import HEIGHT, WIDTH, image_pair
from steerlab.openpilot.outputs import parse

Array = NDArray[Any]

PLANES = (6, HEIGHT // 2, WIDTH // 2)  # of one frame


class Step(NamedTuple):
    """What one frame gave, for every row."""

    command: Command  # smoothed, what modeld publishes
    desired: Command  # before smoothing
    outputs: dict[str, Array]  # as the consumer's parser reads them
    raw: Array  # (rows, N)


class Runner:
    """Runs the networks of a contract on one frame after the other, for ``rows`` cars at once.

    Args:
        contract_: The contract, or its name.
        network: The policy, or the supercombo.
        vision: The vision network of a split pair; without it the features are given to
            :meth:`step`.
        rows: Cars. Forms with the history inside the graph take one.
    """

    def __init__(
        self,
        contract_: Contract | str,
        network: Network,
        *,
        vision: Network | None = None,
        rows: int = 1,
    ) -> None:
        self.contract = contract(contract_) if isinstance(contract_, str) else contract_
        self.rows = rows
        self.network, self.vision = network, vision
        name = next(n for n in self.contract.model_names if n != "driving_vision")
        self.model = self.contract.model(name)
        if self.model.states and rows != 1:
            raise InputError(f"{self.contract.id} has its history in the graph: rows=1 only")
        feeds = {i.feed for i in self.model.inputs.values()}
        self._supercombo = "driving_vision" not in self.contract.model_names
        if vision and self._supercombo:
            raise InputError(f"{self.contract.id} has no separate vision network; leave it out")
        self._shows_images = bool(vision) or bool(feeds & {"image", "new_images"})
        self._pulse = DesirePulse(rows)
        self._desires = Queue(rows, HISTORY, (8,))
        own = "previous_features" in feeds  # 24 rows, without the frame of now
        self._features = Queue(rows, HISTORY - STRIDE if own else HISTORY, (FEATURES,))
        self._curvatures = Queue(rows, HISTORY, (1,))
        self._images = {
            feed: Queue(rows, IMAGE_LAG + 1, PLANES, np.uint8)
            for feed in ("image", "wide_image")
            if self._shows_images
        }
        self._fill: dict[str, Callable[[Input, dict[str, Any]], Array]] = {
            "image": lambda i, now: self._pair("image"),
            "wide_image": lambda i, now: self._pair("wide_image"),
            "new_images": lambda i, now: np.concatenate([now["image"], now["wide_image"]]),
            "desire": lambda i, now: desire_rows(self._desires),
            "desire_now": lambda i, now: now["pulse"][0],
            "traffic_convention": lambda i, now: now["traffic"],
            "lateral_control_params": lambda i, now: np.stack(
                [np.maximum(now["v_ego"], 0.0), now["lateral"]], 1
            ),
            "previous_curvature": lambda i, now: i.gain * strided(self._curvatures),
            "features": lambda i, now: strided(self._features),
            "previous_features": lambda i, now: self._features.take(
                np.arange(0, HISTORY - STRIDE, STRIDE)
            ),
            "action_t": lambda i, now: np.stack([now["t_lateral"], now["t_longitudinal"]], 1),
            "state": lambda i, now: self._states[i.name],
        }
        self.reset()

    def reset(self, rows: Any = slice(None)) -> None:
        """Start anew: all rows, or those that an index or a mask picks."""
        for queue in (self._desires, self._features, self._curvatures, *self._images.values()):
            queue.clear(rows)
        self._pulse.clear(rows)
        if not hasattr(self, "_last"):
            zero = np.zeros(self.rows)
            self._last = Command(zero, zero.copy(), np.zeros(self.rows, bool))
            self._own_features = np.zeros((self.rows, FEATURES), np.float32)
        for value in (*self._last, self._own_features):
            value[rows] = 0
        self._states = {
            n: np.zeros(i.shape, np.dtype(i.dtype)) for n, i in self.model.states.items()
        }

    def step(
        self,
        *,
        v_ego: ArrayLike,
        features: ArrayLike | None = None,
        image: Array | None = None,
        wide_image: Array | None = None,
        desire: ArrayLike = 0,
        traffic: ArrayLike = 0,
        lateral_delay: ArrayLike = 0.2,
        longitudinal_delay: ArrayLike = 0.15,
        dropped: bool = False,
    ) -> Step | None:
        """Take one frame, 50 ms after the last.

        Args:
            v_ego: Speed, m/s, (rows,) or one for all.
            features: (rows, 512), where no vision network makes them.
            image: Planes of the narrow camera, (rows, 6, 128, 256) uint8.
            wide_image: Planes of the wide camera.
            desire: Index of the desire, or weights (rows, 8); pulses are made here.
            traffic: 0 right-hand traffic, 1 left-hand traffic, or (rows, 2).
            lateral_delay: Learned delay of the steering, s.
            longitudinal_delay: Delay of the actuator, s.
            dropped: The frame before was lost: images (and, to 0.10.0, the desire) move on, the
                networks do not run.

        Returns:
            The step, or None for a dropped frame.

        Raises:
            InputError: Features or images are missing, superfluous or of the wrong shape.
        """
        rule = self.contract.command
        now: dict[str, Any] = self._frames(image, wide_image)
        if dropped and not self.contract.desire_moves_on_dropped_frame:
            return None
        now["pulse"] = self._pulse(desire)
        self._desires.push(now["pulse"])
        if dropped:
            return None
        now["v_ego"] = np.broadcast_to(np.asarray(v_ego, np.float32), self.rows)
        now["traffic"] = one_hot(traffic, 2, self.rows, "traffic")
        delay = np.broadcast_to(np.asarray(lateral_delay, np.float32), self.rows)
        now["lateral"] = delay + np.float32(rule.lat_smooth_s)
        lateral, longitudinal = action_times(rule, delay, longitudinal_delay)
        now["t_lateral"] = lateral
        now["t_longitudinal"] = np.broadcast_to(longitudinal, self.rows)
        outputs = self._see(features)
        inputs = {
            name: np.asarray(self._fill[i.feed](i, now), dtype=i.dtype)
            for name, i in self.model.inputs.items()
        }
        if self.contract.feeds_zeros_to_unknown_inputs:
            inputs |= {
                name: np.zeros((self.rows, *shape[1:]), np.float32)
                for name, shape in self.network.inputs.items()
                if name not in inputs
            }
        found = self.network.engine.run(inputs)
        raw = found["outputs"]
        outputs |= parse(self.network.slices, raw)
        if self._supercombo:
            self._own_features = np.array(outputs["hidden_state"], dtype=np.float32)
        self._states = {name: found[f"next_{name}"] for name in self._states}
        desired = command(rule, outputs, now["v_ego"], lateral, now["t_longitudinal"])
        if "desired_curvature" in outputs:
            self._curvatures.push(outputs["desired_curvature"])
        smoothed = smooth(rule, desired, self._last, now["v_ego"])
        self._last = Command(
            np.array(smoothed.curvature),
            np.array(smoothed.acceleration),
            np.array(smoothed.should_stop),
        )
        return Step(smoothed, desired, outputs, raw)

    def _frames(self, image: Array | None, wide_image: Array | None) -> dict[str, Any]:
        """Check the images of a frame and put them into their queues."""
        frames = {"image": image, "wide_image": wide_image}
        for name, frame in frames.items():
            if not self._shows_images:
                if frame is not None:
                    raise InputError(f"there is no vision network for {name}; give vision=")
                continue
            if frame is None or frame.shape != (self.rows, *PLANES) or frame.dtype != np.uint8:
                found = None if frame is None else f"{frame.dtype} {frame.shape}"
                raise InputError(
                    f"{name} is {found}; give uint8 planes {(self.rows, *PLANES)} (pack_yuv)"
                )
            self._images[name].push(frame)
        return frames

    def _pair(self, feed: str) -> Array:
        queue = self._images[feed]
        older, newer = (queue.take([slot])[:, 0] for slot in (0, len(queue) - 1))
        return image_pair(older, newer)

    def _see(self, features: ArrayLike | None) -> dict[str, Array]:
        """Put the features of this frame into their queue; return what the vision network saw."""
        if self._supercombo:
            if features is not None:
                raise InputError(f"the network of {self.contract.id} makes its own features")
            if not self.model.states:
                self._features.push(self._own_features)  # of the frame before
            return {}
        outputs: dict[str, Array] = {}
        if self.vision:
            if features is not None:
                raise InputError("features= are given although there is a vision network")
            # modeld goes by the name: the wide camera is the input with "big" in it.
            names = self.vision.inputs or self.contract.model("driving_vision").inputs
            feeds = {n: self._pair("wide_image" if "big" in n else "image") for n in names}
            raw = self.vision.engine.run(feeds)["outputs"]
            outputs = parse(self.vision.slices, raw)
            features = outputs["hidden_state"]
        features = None if features is None else np.asarray(features)
        if features is None or features.shape != (self.rows, FEATURES):
            found = None if features is None else features.shape
            raise InputError(f"features have shape {found}; give ({self.rows}, {FEATURES})")
        self._features.push(features)
        return outputs
