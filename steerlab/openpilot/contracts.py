"""The driving-model contracts of openpilot and sunnypilot, read from ``contracts.json``.

A contract says, for one range of releases, what files the consumer loads: inputs with shapes and
types and how the consumer fills them, the heads of the flat output, their inner layouts and
activations, and the rule that turns outputs into commands. A new release is a new row of the table.

Every output is one vector ``outputs`` of shape (1, N). A Gaussian head holds all means, then all
logarithms of standard deviations, both row-major; a mixture head holds that for one hypothesis
after the other, each followed by the hypothesis' logits. Lengths are metres, times seconds, angles
radians; x forward, y right, z down; yaw and curvature are positive to the right.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.errors import InputError, unknown_name

_TABLE: dict[str, Any] = json.loads(
    files("steerlab.openpilot").joinpath("contracts.json").read_text(encoding="utf-8")
)
_CONSTANTS = _TABLE["constants"]

FRAME_HZ: int = _CONSTANTS["frame_hz"]
HISTORY: int = _CONSTANTS["history"]  # frames
STRIDE: int = _CONSTANTS["stride"]  # frames between the rows of a history
IMAGE_LAG: int = _CONSTANTS["image_lag"]  # frames between the two images of a pair
FEATURES: int = _CONSTANTS["features"]
DESIRES: tuple[str, ...] = tuple(_CONSTANTS["desires"])
LOG_STD_CLIP: float = _CONSTANTS["log_std_clip"]
PLAN_COLUMNS: tuple[str, ...] = tuple(_CONSTANTS["plan_columns"])
YUV_PHASES: tuple[tuple[int, int], ...] = tuple((r, c) for r, c in _CONSTANTS["yuv_phases"])
TINYGRAD_UNSUPPORTED = frozenset(_CONSTANTS["tinygrad_unsupported"])

_knots = np.linspace(0.0, 1.0, _CONSTANTS["knots"]) ** 2
T_IDXS: NDArray[np.float64] = _CONSTANTS["t_horizon_s"] * _knots  # (33,) s
X_IDXS: NDArray[np.float64] = _CONSTANTS["x_horizon_m"] * _knots  # (33,) m


def plan_column(name: str) -> int:
    """Return the index of a plan column, for example ``"yaw_rate"``."""
    if name not in PLAN_COLUMNS:
        raise unknown_name("plan column", name, PLAN_COLUMNS)
    return PLAN_COLUMNS.index(name)


@dataclass(frozen=True)
class Head:
    """One named part of the flat output.

    ``kind`` is ``gaussian``, ``mixture`` (of Gaussians, with ``selections`` logits for each
    hypothesis), ``sigmoid`` or ``softmax`` (logits, softmax over the last axis), or ``raw``.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    hypotheses: int = 1
    selections: int = 0

    @property
    def size(self) -> int:
        """Values of one mean, or of the logits."""
        return math.prod(self.shape)

    @property
    def width(self) -> int:
        """Values in the flat output."""
        if self.kind == "mixture":
            return self.hypotheses * (2 * self.size + self.selections)
        return self.size * (2 if self.kind == "gaussian" else 1)

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes (without the batch axis) of the tensors that fill the head."""
        if self.kind == "raw":
            return {self.name: self.shape}
        if self.kind in ("sigmoid", "softmax"):
            return {f"{self.name}_logits": self.shape}
        if self.kind == "gaussian":
            return {self.name: self.shape, f"{self.name}_log_std": self.shape}
        shape = (self.hypotheses, *self.shape)
        logits = (self.hypotheses, self.selections)
        return {
            self.name: shape,
            f"{self.name}_log_std": shape,
            f"{self.name}_logits": logits,
        }


@dataclass(frozen=True)
class Input:
    """One input: its shape, type, and what the consumer puts there (``feed``)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    feed: str
    gain: float = 1.0
    open: tuple[int, ...] = ()  #: axes whose length the consumer reads from the file

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether a file's input may have this shape.

        An open last axis stands for any number of axes: features of a frame may have a shape.
        """
        axes = len(self.shape)
        if len(shape) != axes and not (axes - 1 in self.open and len(shape) > axes):
            return False
        return all(d > 0 for d in shape) and all(
            i in self.open or shape[i] == self.shape[i] for i in range(axes)
        )


@dataclass(frozen=True)
class Model:
    """One network of a contract, with one choice of widths where the contract leaves a choice."""

    name: str
    inputs: Mapping[str, Input]
    heads: Mapping[str, Head]  #: those of the layout, in its order
    optional: tuple[str, ...]  #: heads the consumer uses if they are there
    widths: Mapping[str, tuple[int, ...]]  #: accepted widths of every head, the usual one first
    any_width: tuple[str, ...]  #: heads that may have any other width too
    released_layout: bool  #: the slices are those of released files, not one choice of many
    length: int

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Place of every head in the flat output; what is left over is ``pad``."""
        slices, start = {}, 0
        for head in self.heads.values():
            slices[head.name] = slice(start, start + head.width)
            start += head.width
        if start < self.length:
            slices["pad"] = slice(start, self.length)
        return slices

    @property
    def required(self) -> tuple[str, ...]:
        """Heads without which the consumer fails."""
        return tuple(h for h in self.widths if h not in self.optional)

    def accepts(self, head: str, width: int) -> bool:
        """Return whether the consumer reads a head of this width."""
        return width in self.widths[head] or (head in self.any_width and width > 0)

    @property
    def states(self) -> dict[str, Input]:
        """Inputs that the runtime feeds back from outputs ``next_<name>``."""
        return {n: i for n, i in self.inputs.items() if i.feed == "state"}

    @property
    def output_names(self) -> list[str]:
        """Names of the graph's outputs."""
        return ["outputs", *(f"next_{name}" for name in self.states)]


@dataclass(frozen=True)
class CommandRule:
    """How the consumer turns outputs into a curvature, an acceleration and a wish to stop."""

    curvature_from: str  #: plan, or action_or_plan
    lat_smooth_s: float
    long_smooth_s: float
    extra_delay_s: float  #: beside the actuator's delay and the smoothing
    stable_delay_s: float  #: below it the plan is scaled from this time
    stop: Mapping[str, Any]
    min_speed: float  #: m/s
    hold_below_speed: float  #: m/s; below it the curvature keeps its value


@dataclass(frozen=True)
class Contract:
    """What one range of releases loads."""

    id: str
    consumers: str
    certainty: str
    command: CommandRule
    tinygrad_device: str | None  #: on a PC; None: its pickles join several graphs
    build: str  #: what makes the target's pickle from the ONNX file, where we do not
    #: What a lost camera frame does: ``desire_moves`` (skipped, but a pulse is kept), ``pulse_lost``
    #: (skipped, and the pulse of that frame is gone), or ``runs`` (nothing is skipped).
    dropped_frame: str
    feeds_zeros_to_unknown_inputs: bool
    _models: Mapping[str, Any] = field(repr=False)

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names of the networks, which are also the stems of the files."""
        return tuple(self._models)

    @property
    def is_split(self) -> bool:
        """Whether vision and policy are two networks."""
        return "driving_vision" in self._models

    @property
    def policy_name(self) -> str:
        """Name of the network that drives: the policy, or the supercombo."""
        return next(name for name in self._models if name != "driving_vision")

    def model(
        self,
        name: str,
        *,
        heads: Mapping[str, int | None] | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> Model:
        """Return one network of the contract.

        Args:
            name: ``driving_vision``, ``driving_policy`` or ``driving_supercombo``.
            heads: Width of a head that has several, or that is optional; None leaves an optional
                head out. By default the first accepted width, and the heads of the usual layout.
            shapes: Shapes of a file's inputs. They count where the contract leaves them open, as do
                its queues' depth and the width of its features in the forms of 2026.

        Raises:
            InputError: The contract has no such network, head or width.
        """
        if name not in self._models:
            raise unknown_name(f"model of {self.id}", name, self._models)
        row = self._models[name]
        optional = tuple(row.get("optional", ()))
        widths = {
            head: tuple(row["widths"].get(head) or _known_widths(head))
            for head in dict.fromkeys((*row["outputs"], *optional))
        }
        any_width = tuple(row.get("any_width", ()))
        chosen: dict[str, int | None] = {h: widths[h][0] for h in row["outputs"]}
        for head, width in (heads or {}).items():
            if head not in widths:
                raise unknown_name(f"head of {name}", head, widths)
            if width is None and head not in optional:
                raise InputError(f"{self.id} needs head {head!r} in {name}; give it a width")
            if width is not None and width not in widths[head] and head not in any_width:
                raise InputError(
                    f"{head}={width} is no width that {self.id} accepts; use {_either(widths[head])}"
                )
            chosen[head] = width
        layout = {h: head_of_width(h, w) for h, w in chosen.items() if w is not None}
        used, multiple = sum(h.width for h in layout.values()), row["length_multiple"]
        inputs = {n: _input(n, i, (shapes or {}).get(n)) for n, i in row["inputs"].items()}
        return Model(
            name=name,
            inputs=inputs,
            heads=layout,
            optional=optional,
            widths=widths,
            any_width=any_width,
            released_layout=row["released_layout"],
            length=-(-used // multiple) * multiple,
        )


def head_of_width(name: str, width: int) -> Head:
    """Return the layout of a head that takes ``width`` values of the flat output.

    Raises:
        InputError: No consumer knows the head, or knows it with that width.
    """
    if name not in _TABLE["heads"]:
        raise unknown_name("head", name, _TABLE["heads"])
    forms = _TABLE["heads"][name]
    form = forms.get(str(width), forms.get("any") if width > 0 else None)
    if form is None:
        raise InputError(f"head {name!r} has no form of width {width}; use {_either(forms)}")
    return Head(name, **(form | {"shape": tuple(form.get("shape", [width]))}))


def known_heads() -> tuple[str, ...]:
    """Return the names of every head that some consumer parses."""
    return tuple(_TABLE["heads"])


def contract_ids() -> tuple[str, ...]:
    """Return the names of all contracts, oldest first."""
    return tuple(_TABLE["contracts"])


@cache
def contract(id: str) -> Contract:
    """Return a contract by name.

    Raises:
        InputError: There is no such contract.
    """
    if id not in _TABLE["contracts"]:
        raise unknown_name("contract", id, contract_ids())
    row = _TABLE["contracts"][id]
    return Contract(
        id=id,
        consumers=row["consumers"],
        certainty=row["certainty"],
        command=CommandRule(**row["command"]),
        _models=row["models"],
        **row["runtime"],
    )


def _known_widths(head: str) -> list[int]:
    return [int(width) for width in _TABLE["heads"][head] if width != "any"]


def _input(name: str, row: Mapping[str, Any], shape: tuple[int, ...] | None) -> Input:
    """Return an input of the table, with the shape that it has in a file where that may vary."""
    found = Input(
        name,
        tuple(row["shape"]),
        row["dtype"],
        row["feed"],
        row.get("gain", 1.0),
        tuple(row.get("open", ())),
    )
    return replace(found, shape=tuple(shape)) if shape and found.fits(shape) else found


def _either(values: Any) -> str:
    return " or ".join(str(v) for v in values)
