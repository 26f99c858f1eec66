"""What openpilot's modeld does around a network: queues in, commands out, 20 times a second.

One :class:`Runner` serves the policy of the split models, the vision network before it, and the
supercombo forms, over torch, onnxruntime or tinygrad, for any number of cars at once; one car is a
batch of one. Every closed loop goes through it, the drives of a training included, so what is driven
is what the car would run.

A frame passes three stages, which :meth:`Runner.step` runs in a row and a training calls one by one:
:meth:`Runner.observe` (image queues, vision, desire pulses, times of action), :meth:`Runner.ask` (the
network, with its history) and :meth:`Runner.publish` (smoothing).
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from steerlab.errors import InputError
from steerlab.openpilot.commands import Command, action_times, command, smooth
from steerlab.openpilot.contracts import (
    DESIRES,
    IMAGE_LAG,
    STRIDE,
    Contract,
    Input,
    Model,
    contract,
)
from steerlab.openpilot.engines import Network
from steerlab.openpilot.history import (
    DesirePulse,
    Queue,
    desire_rows,
    one_hot,
    strided,
    strided_past,
)
from steerlab.openpilot.images import HEIGHT, WIDTH, image_pair
from steerlab.openpilot.outputs import parse
from steerlab.types import Array

PLANES = (6, HEIGHT // 2, WIDTH // 2)  # of one frame


class Frame(NamedTuple):
    """What modeld knows at one frame besides the past, for every row."""

    v_ego: Array  # m/s, (rows,)
    features: Array | None  # (rows, F); None where the network makes its own
    desires: Array  # (rows, 25, 8): the history, each row the pulses of four frames, newest last
    pulse: Array  # (rows, 8): those of this frame
    traffic: Array  # one-hot, (rows, 2)
    car: Array  # lateral_control_params: speed from 0 on (m/s), delay with smoothing (s), (rows, 2)
    t_lateral: Array  # when the steering takes effect, s, (rows,)
    t_longitudinal: Array  # when the acceleration takes effect, s, (rows,)
    images: Mapping[str, Array]  # planes of this frame, (rows, 6, 128, 256), by camera
    pairs: Mapping[str, Array]  # with those of 200 ms ago, (rows, 12, 128, 256)
    outputs: Mapping[str, Array]  # what the vision network saw, parsed


class Asked(NamedTuple):
    """What a network answers to a frame, for every row."""

    command: Command  # before smoothing
    outputs: Mapping[str, Array] = MappingProxyType({})  # as the consumer's parser reads them
    raw: Array = np.empty((0, 0), np.float32)  # (rows, N)


class Policy(Protocol):
    """A network with its history: what :class:`Runner` asks at every frame.

    :class:`WindowPolicy` hands a whole window to an engine. A network in training may keep the past
    in its own terms.
    """

    def reset(self, rows: Any) -> None:
        """Forget the past of ``rows``."""

    def ask(self, frame: Frame) -> Asked:
        """Take a frame; return what the network asks for."""


class Step(NamedTuple):
    """What one frame gave, for every row."""

    command: Command  # smoothed, what modeld publishes
    desired: Command  # before smoothing
    outputs: dict[str, Array]  # as the consumer's parser reads them
    raw: Array  # (rows, N)


def _there(queue: Queue | None) -> Queue:
    """Return the queue that an input of the network reads: it was made because of that input."""
    assert queue is not None
    return queue


class WindowPolicy:
    """An engine that gets the whole window at every frame, as modeld hands it over.

    Args:
        contract_: The contract.
        network: The policy, or the supercombo.
        rows: Cars. Forms with the history inside the graph take one.

    Raises:
        InputError: The network has no plan, or takes inputs that the contract does not feed.
    """

    def __init__(self, contract_: Contract, network: Network, rows: int) -> None:
        self.contract, self.network, self.rows = contract_, network, rows
        self.model = policy_model(contract_, network)
        if self.model.states and rows != 1:
            raise InputError(f"{contract_.id} has its history in the graph: rows=1 only")
        _check_fit(contract_, self.model, network)
        feeds = {i.feed: i for i in self.model.inputs.values()}
        window = feeds.get("features") or feeds.get("previous_features")
        rows_of = {feed: i.shape[1] for feed, i in feeds.items() if len(i.shape) > 2}
        self._features: Queue | None = None
        self._curvatures: Queue | None = None
        if window:
            self._features = Queue(rows, STRIDE * window.shape[1], window.shape[2:])
        if "previous_curvature" in feeds:
            self._curvatures = Queue(rows, STRIDE * rows_of["previous_curvature"], (1,))
        # Supercombos are handed the features of their own last run.
        self._own: Array | None = None
        if window and window.feed == "previous_features":
            self._own = np.zeros((rows, *window.shape[2:]), np.float32)
        self._fill: dict[str, Callable[[Input, Frame], Array]] = {
            "image": lambda i, now: now.pairs["image"],
            "wide_image": lambda i, now: now.pairs["wide_image"],
            "new_images": lambda i, now: np.concatenate(list(now.images.values())),
            "desire": lambda i, now: now.desires,
            "desire_now": lambda i, now: now.pulse[0],
            "traffic_convention": lambda i, now: now.traffic,
            "lateral_control_params": lambda i, now: now.car,
            "previous_curvature": lambda i, now: i.gain * strided(_there(self._curvatures)),
            "features": lambda i, now: strided(_there(self._features)),
            "previous_features": lambda i, now: strided_past(_there(self._features)),
            "action_t": lambda i, now: np.stack([now.t_lateral, now.t_longitudinal], 1),
            "state": lambda i, now: self._states[i.name],
        }
        self.reset()

    def reset(self, rows: Any = slice(None)) -> None:
        """Forget the past of ``rows``."""
        for queue in (self._features, self._curvatures):
            if queue is not None:
                queue.clear(rows)
        if self._own is not None:
            self._own[rows] = 0
        self._states = {
            n: np.zeros(i.shape, np.dtype(i.dtype)) for n, i in self.model.states.items()
        }

    def ask(self, frame: Frame) -> Asked:
        """Run the network on the window that ends with this frame."""
        if self._features is not None:
            features = frame.features if self._own is None else self._own
            assert features is not None  # observe() has seen to it
            self._features.push(features.reshape(self.rows, *self._features.shape))
        inputs = {
            name: np.asarray(self._fill[i.feed](i, frame), dtype=i.dtype)
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
        outputs = dict(frame.outputs) | parse(self.network.slices, raw)
        if self._own is not None:
            self._own = np.array(outputs["hidden_state"], np.float32).reshape(self._own.shape)
        self._states = {name: found[f"next_{name}"] for name in self._states}
        if self._curvatures is not None and "desired_curvature" in outputs:
            self._curvatures.push(outputs["desired_curvature"])
        rule = self.contract.command
        asked = command(rule, outputs, frame.v_ego, frame.t_lateral, frame.t_longitudinal)
        return Asked(asked, outputs, raw)


def policy_model(contract_: Contract, network: Network) -> Model:
    """Return the contract's model of a policy or supercombo, with the file's sizes where they vary."""
    return contract_.model(contract_.policy_name, shapes=network.inputs)


def _check_fit(contract_: Contract, model: Model, network: Network) -> None:
    """Hold a file's inputs and heads against what is fed and read.

    Raises:
        InputError: Inputs differ, or a head is missing without which there is no command.
    """
    if network.inputs:
        found, fed = set(network.inputs), set(model.inputs)
        extra = set() if contract_.feeds_zeros_to_unknown_inputs else found - fed
        if extra or fed - found:
            parts = [f"lacks {', '.join(sorted(fed - found))}"] if fed - found else []
            parts += [f"takes {', '.join(sorted(extra))}"] if extra else []
            raise InputError(
                f"the network {' and '.join(parts)}, other inputs than {contract_.id} feeds; give the "
                "contract= that it was made for"
            )
    if "plan" not in network.slices:
        heads = ", ".join(network.slices) or "none"
        raise InputError(f"the network has no plan to drive by (heads: {heads}); give a policy")


class Runner:
    """Runs the networks of a contract on one frame after the other, for ``rows`` cars at once.

    Args:
        contract_: The contract, or its name.
        network: The policy, or the supercombo: a :class:`Network` to which the history is handed, or
            a :class:`Policy` that keeps its own.
        vision: The vision network of a split pair; without it the features are given to
            :meth:`step`.
        rows: Cars. Forms with the history inside the graph take one.

    Raises:
        InputError: The networks do not fit the contract or one another.
    """

    def __init__(
        self,
        contract_: Contract | str,
        network: Network | Policy,
        *,
        vision: Network | None = None,
        rows: int = 1,
    ) -> None:
        self.contract = contract(contract_) if isinstance(contract_, str) else contract_
        self.rows, self.vision = rows, vision
        if isinstance(network, Network):
            self.model = policy_model(self.contract, network)
            self.policy: Policy = WindowPolicy(self.contract, network, rows)
        else:
            self.model = self.contract.model(self.contract.policy_name)
            self.policy = network
        feeds = {i.feed: i for i in self.model.inputs.values()}
        if vision and not self.contract.is_split:
            raise InputError(f"{self.contract.id} has no separate vision network; leave it out")
        if vision and "hidden_state" not in vision.slices:
            raise InputError(
                f"the vision model has no hidden_state, it has {', '.join(vision.slices)}; "
                "give a driving_vision file"
            )
        self._width = math.prod(feeds["features"].shape[2:]) if "features" in feeds else 0
        self._pulse = DesirePulse(rows)
        history = feeds["desire"].shape[1] if "desire" in feeds else 1
        self._desires = Queue(rows, STRIDE * history, (len(DESIRES),))
        self._images = {
            feed: Queue(rows, IMAGE_LAG + 1, PLANES, np.uint8)
            for feed in ("image", "wide_image")
            if vision or feeds.keys() & {"image", "new_images"}
        }
        #: What was published last.
        self.last = Command(np.zeros(rows), np.zeros(rows), np.zeros(rows, bool))
        self.reset()

    @property
    def shows_images(self) -> bool:
        """Whether the networks look at pictures, and are not given features."""
        return bool(self._images)

    def reset(self, rows: Any = slice(None)) -> None:
        """Start anew: all rows, or those that an index or a mask picks."""
        for queue in (self._desires, *self._images.values()):
            queue.clear(rows)
        self._pulse.clear(rows)
        for value in self.last:
            value[rows] = 0
        self.policy.reset(rows)

    def step(self, **seen: Any) -> Step | None:
        """Take one frame, 50 ms after the last: :meth:`observe`, ask, :meth:`publish`.

        Returns:
            The step, or None for a dropped frame that the contract skips.

        Raises:
            InputError: Features or images are missing, superfluous or of the wrong shape.
        """
        frame = self.observe(**seen)
        if frame is None:
            return None
        asked = self.policy.ask(frame)
        published = self.publish(asked.command, frame.v_ego)
        return Step(published, asked.command, dict(asked.outputs), asked.raw)

    def observe(
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
    ) -> Frame | None:
        """Take in one frame.

        Args:
            v_ego: Speed, m/s, (rows,) or one for all.
            features: (rows, 512), where no vision network makes them.
            image: Planes of the narrow camera, (rows, 6, 128, 256) uint8.
            wide_image: Planes of the wide camera.
            desire: Index of the desire, or weights (rows, 8); pulses are made here.
            traffic: 0 right-hand traffic, 1 left-hand traffic, or (rows, 2).
            lateral_delay: Learned delay of the steering, s, (rows,) or one for all.
            longitudinal_delay: Delay of the actuator, s, (rows,) or one for all.
            dropped: The frame before was lost. Images move on; of the rest, the contract says whether
                the frame is run all the same, whether the desire's history moves on, or whether a
                pulse is lost.

        Returns:
            The frame, or None where the contract skips it.

        Raises:
            InputError: Features or images are missing, superfluous or of the wrong shape.
        """
        images = self._take_images(image, wide_image)
        pulse = self._pulse(desire)
        skipped = dropped and self.contract.dropped_frame != "runs"
        if not skipped or self.contract.dropped_frame == "desire_moves":
            self._desires.push(pulse)
        if skipped:
            return None
        rule = self.contract.command
        speed = np.broadcast_to(np.asarray(v_ego, np.float32), self.rows)
        delay = np.broadcast_to(np.asarray(lateral_delay, np.float32), self.rows)
        lateral, longitudinal = action_times(rule, delay, longitudinal_delay)
        pairs = {name: self._pair(name) for name in images}
        found, outputs = self._see(features, pairs)
        return Frame(
            v_ego=speed,
            features=found,
            desires=desire_rows(self._desires),
            pulse=pulse,
            traffic=one_hot(traffic, 2, self.rows, "traffic"),
            car=np.stack([np.maximum(speed, 0.0), delay + np.float32(rule.lat_smooth_s)], 1),
            t_lateral=lateral,
            t_longitudinal=np.array(np.broadcast_to(longitudinal, self.rows)),
            images=images,
            pairs=pairs,
            outputs=outputs,
        )

    def publish(self, asked: Command, v_ego: ArrayLike) -> Command:
        """Return the command after smoothing, and remember it for the next frame.

        Args:
            asked: What the network asks for, (B,) each.
            v_ego: Speed, m/s, (B,) or one for all.
        """
        smoothed = smooth(self.contract.command, asked, self.last, v_ego)
        self.last = Command(
            np.array(smoothed.curvature),
            np.array(smoothed.acceleration),
            np.array(smoothed.should_stop),
        )
        return smoothed

    def _take_images(self, image: Array | None, wide_image: Array | None) -> dict[str, Array]:
        """Check the images of a frame and put them into their queues."""
        given = {"image": image, "wide_image": wide_image}
        if not self._images:
            for name in [n for n, frame in given.items() if frame is not None]:
                raise InputError(f"there is no vision network for {name}; give vision=")
            return {}
        taken = {}
        for name, frame in given.items():
            if frame is None or frame.shape != (self.rows, *PLANES) or frame.dtype != np.uint8:
                found = None if frame is None else f"{frame.dtype} {frame.shape}"
                raise InputError(
                    f"{name} is {found}; give uint8 planes {(self.rows, *PLANES)} (pack_yuv)"
                )
            self._images[name].push(frame)
            taken[name] = frame
        return taken

    def _pair(self, name: str) -> Array:
        older, newer = (self._images[name].take([slot])[:, 0] for slot in (0, IMAGE_LAG))
        return image_pair(older, newer)

    def _see(
        self, features: ArrayLike | None, pairs: Mapping[str, Array]
    ) -> tuple[Array | None, dict[str, Array]]:
        """Return the features of this frame, and all that the vision network saw."""
        if not self._width:
            if features is not None:
                raise InputError(f"the network of {self.contract.id} makes its own features")
            return None, {}
        outputs: dict[str, Array] = {}
        if self.vision:
            if features is not None:
                raise InputError("features= are given although there is a vision network")
            # modeld goes by the name: the wide camera is the input with "big" in it.
            names = self.vision.inputs or self.contract.model("driving_vision").inputs
            feeds = {n: pairs["wide_image" if "big" in n else "image"] for n in names}
            raw = self.vision.engine.run(feeds)["outputs"]
            outputs = parse(self.vision.slices, raw)
            features = outputs["hidden_state"].astype(np.float32)
        found = None if features is None else np.asarray(features)
        if found is None or found.shape != (self.rows, self._width):
            shape = None if found is None else found.shape
            raise InputError(f"features have shape {shape}; give ({self.rows}, {self._width})")
        return found, outputs
