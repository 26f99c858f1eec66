"""A vision file and a trained policy as the one ONNX graph that the forms of 2026 load.

The vision network stays the graph that it is, ours or a stock one. The policy is exported as the part
behind it, for the form of 2026-09 the queues as a part around both, and the graphs are joined.
"""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import version_converter
from torch import Tensor, nn

from steerlab.errors import InputError
from steerlab.exporters.metadata import metadata_of, onnx_properties
from steerlab.exporters.onnx import export_onnx, relative_difference
from steerlab.exporters.openpilot import Exported, Paths, write_beside
from steerlab.openpilot.contracts import FEATURES, STRIDE, Contract, Model
from steerlab.openpilot.engines import OnnxEngine
from steerlab.openpilot.in_graph import push_images
from steerlab.openpilot.metadata import slices_from_properties
from steerlab.openpilot.onnx_file import (
    element_type,
    graph_inputs,
    one_line,
    read_onnx,
    static_shape,
)
from steerlab.openpilot.outputs import pack_head, parse
from steerlab.openpilot.probe import Probe, example_inputs
from steerlab.readers.graphs import forget_hash, write_graph

_OPSET = 18
_TOLERANCE = 1e-4  # relative above 1, of the joined graph to its parts


class VisionFile(NamedTuple):
    """A vision network that makes features, read from an ONNX file."""

    proto: onnx.ModelProto  # with the inputs img and big_img
    slices: dict[str, slice]  # with bounds from the start
    length: int
    checkpoint: str


def read_vision(path: str | Path) -> VisionFile:
    """Read the vision network that a policy stands behind.

    Raises:
        InputError: The file is no ONNX file, or no vision network with features of the usual width.
    """
    proto = read_onnx(path)
    properties = {p.key: p.value for p in proto.metadata_props}
    places = slices_from_properties(properties, repr(str(path)))
    inputs = graph_inputs(proto)
    wide = [name for name in inputs if "big" in name]
    shape = static_shape(proto.graph.output[0])
    images = all(element_type(i) == "uint8" for i in inputs.values())
    if len(inputs) != 2 or len(wide) != 1 or not images or len(shape) != 2 or shape[1] < 1:
        raise InputError(
            f"vision={str(path)!r} takes {', '.join(inputs) or 'nothing'} and is no vision network: give "
            "a driving_vision file with two image inputs, one of them named big, and one flat output"
        )
    length = shape[1]
    spans = {name: place.indices(length) for name, place in places.items()}
    slices = {name: slice(start, stop) for name, (start, stop, _) in spans.items()}
    hidden = slices.get("hidden_state", slice(0, 0))
    if hidden.stop - hidden.start != FEATURES:
        raise InputError(
            f"vision={str(path)!r} has a hidden_state of {hidden.stop - hidden.start} values; the policy "
            f"reads {FEATURES}"
        )
    narrow = next(name for name in inputs if name not in wide)
    _rename(proto, {narrow: "img", wide[0]: "big_img"})
    return VisionFile(proto, slices, length, properties.get("model_checkpoint", ""))


def _rename(proto: onnx.ModelProto, names: dict[str, str]) -> None:
    """Give inputs of a graph other names."""
    for value in proto.graph.input:
        value.name = names.get(value.name, value.name)
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def supercombo_model(target: Contract, vision: VisionFile, says: tuple[str, ...] = ()) -> Model:
    """Return the target's model with the heads of a vision file and a policy with 25 rows of history.

    Args:
        target: The contract.
        vision: The vision network.
        says: Optional heads that the policy has tensors for.
    """
    bare = target.model(target.policy_name)
    heads: dict[str, int | None] = {
        n: bare.widths[n][0] if n in says else None for n in bare.optional
    }
    heads |= {n: s.stop - s.start for n, s in vision.slices.items() if n in bare.widths}
    rows = {"features_buffer": (1, 24, FEATURES), "desire_pulse": (1, 25, 8),
            "state_feat_q": (24 * STRIDE, 1, FEATURES), "state_desire_q": (25 * STRIDE, 1, 8)}  # fmt: skip
    return target.model(target.policy_name, heads=heads, shapes=rows)


class TargetPolicy(Protocol):
    """A policy in the terms of the contract that it is written for."""

    @property
    def says(self) -> tuple[str, ...]:
        """Optional heads that it has tensors for."""

    def read(self, features: Tensor, named: dict[str, Tensor]) -> Any:
        """Return what it says of a window (B, 25, 512) and other inputs, by what is fed there."""

    def tensors(self, outputs: Any) -> dict[str, Tensor]:
        """Return the named tensors of its heads."""


class _Tail(nn.Module):
    """The policy behind a vision network: from its flat output and the other inputs to ``outputs``."""

    def __init__(self, policy: TargetPolicy, model: Model, vision: VisionFile) -> None:
        super().__init__()
        self.policy, self.model, self.slices = policy, model, vision.slices

    def forward(
        self, seen: Tensor, desire: Tensor, traffic: Tensor, action_t: Tensor, past: Tensor
    ) -> Tensor:
        """Return (1, N) for the rows of desires (1, 25, 8) and of past features (1, 24, 512)."""
        own = seen[:, self.slices["hidden_state"]]
        named = {"desire": desire, "traffic_convention": traffic, "action_t": action_t}
        window = torch.cat([past, own[:, None]], dim=1)
        tensors = self.policy.tensors(self.policy.read(window, named))
        parts = [
            seen[:, self.slices[head.name]]
            if head.name in self.slices
            else pack_head(head, tensors)
            for head in self.model.heads.values()
        ]
        missing = self.model.length - sum(head.width for head in self.model.heads.values())
        return torch.cat([*parts, own.new_zeros(1, missing)], dim=1)


class _TailWithHistory(nn.Module):
    """The same with the queues of desires and features, which it returns as they are next."""

    def __init__(self, tail: _Tail) -> None:
        super().__init__()
        self.tail = tail

    def forward(
        self,
        seen: Tensor,
        desire: Tensor,
        traffic: Tensor,
        action_t: Tensor,
        desire_q: Tensor,
        feat_q: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return (1, N) and the next queues."""
        desire_q = torch.cat([desire_q[1:], desire[None, None]])
        rows = desire_q.reshape(-1, STRIDE, desire.shape[0]).amax(dim=1)[None]
        past = feat_q[::STRIDE].transpose(0, 1)
        own = seen[:, self.tail.slices["hidden_state"]]
        outputs = self.tail(seen, rows, traffic, action_t, past)
        return outputs, desire_q, torch.cat([feat_q[1:], own[None]])


class _Images(nn.Module):
    """The queue of images before the vision network."""

    def forward(self, new_img: Tensor, queue: Tensor) -> tuple[Tensor, ...]:
        """Return both pairs (1, 12, 128, 256) and the next queue."""
        queue, older, newer = push_images(queue, new_img)
        pairs = torch.cat([older, newer], dim=1)
        return pairs[:1], pairs[1:], queue


def export_supercombo(
    policy: TargetPolicy,
    vision: VisionFile,
    target: Contract,
    places: Paths,
    *,
    checkpoint: str = "",
    half: bool = True,
) -> Exported:
    """Write a supercombo and what belongs beside it.

    The probe beside it has random inputs, so ``verify-export`` judges no steering by it.

    Args:
        policy: The policy in the target's terms.
        vision: The vision network.
        target: A contract whose models are supercombos.
        places: Where the files go.
        checkpoint: Text that names the training run.
        half: Write the float16 variant too.

    Raises:
        InputError: The graphs cannot be joined, or the joined graph computes something else than its
            parts.
    """
    model = supercombo_model(target, vision, policy.says)
    bare = _Tail(policy, model, vision)
    tail: nn.Module = (_TailWithHistory(bare) if model.states else bare).eval()
    metadata = metadata_of(model, checkpoint)
    proto = _joined(tail, vision, model)
    onnx.helper.set_model_props(proto, onnx_properties(metadata))
    inputs = example_inputs(model)
    rows = [Probe(inputs, np.empty((0, 0))).row(model, k) for k in range(2)]
    engines = [OnnxEngine(p.SerializeToString()) for p in (proto, vision.proto)]
    wanted = [_by_parts(engines[1], tail, model, row) for row in rows]
    found = [engines[0].run(row)["outputs"][0] for row in rows]
    difference = max(relative_difference(f, w) for f, w in zip(found, wanted, strict=True))
    if not difference <= _TOLERANCE:
        raise InputError(
            f"the joined graph differs from its parts by {difference:.3g}; give a vision file in float32"
        )
    write_graph(places.onnx, proto)
    flat = np.array(wanted)
    probe = Probe(inputs, flat, parse(model.slices, flat), recorded=False)
    return write_beside(places, target, metadata, probe, difference, half)


def _joined(tail: nn.Module, vision: VisionFile, model: Model) -> onnx.ModelProto:
    """Return the graph of images, vision network and policy."""
    specs = {n: i for n, i in model.inputs.items() if i.dtype != "uint8"}
    given = [torch.zeros(i.shape) for i in specs.values()]
    names = ["outputs", *(f"next_{n}" for n in model.states if n in specs)]
    seen = torch.zeros(1, vision.length)
    behind = _exported(tail, [seen, *given], ["seen", *specs], names)
    front = _converted(vision.proto, behind)
    forget_hash(behind)  # each part has one of its own
    forget_hash(front)
    front = onnx.compose.add_prefix(front, "vision/", rename_inputs=False)
    passed = []
    if model.states:
        frames = [torch.zeros(model.inputs[n].shape, dtype=torch.uint8) for n in
                  ("new_img", "state_img_q")]  # fmt: skip
        passed = ["next_state_img_q"]
        queue = _exported(
            _Images(), frames, ["new_img", "state_img_q"], ["img", "big_img", *passed]
        )
        forget_hash(queue)
        pairs = [("img", "img"), ("big_img", "big_img")]
        front = _merged(queue, front, pairs)
    seen_name = next(o.name for o in front.graph.output if o.name not in passed)
    proto = _merged(front, behind, [(seen_name, "seen")])
    for field, order in (
        (proto.graph.input, model.inputs),
        (proto.graph.output, model.output_names),
    ):
        by_name = {value.name: value for value in field}
        ordered = [onnx.ValueInfoProto.FromString(by_name[n].SerializeToString()) for n in order]
        del field[:]
        field.extend(ordered)
    del proto.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _exported(
    module: nn.Module, example: list[Tensor], inputs: list[str], outputs: list[str]
) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.onnx"
        export_onnx(module, example, path, inputs, outputs, dynamic_batch=False, opset=_OPSET)
        part = onnx.load(str(path))
    # Names of values inside; those of inputs and outputs stay.
    prefix = f"{type(module).__name__.strip('_').lower()}/"
    return onnx.compose.add_prefix(part, prefix, rename_inputs=False, rename_outputs=False)


def _converted(proto: onnx.ModelProto, like: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph with the operator set and format of another one, so that they can be joined."""
    versions = {o.domain: o.version for o in proto.opset_import}
    wanted = next(o.version for o in like.opset_import if o.domain in ("", "ai.onnx"))
    try:
        if versions.get("", versions.get("ai.onnx")) != wanted:
            proto = version_converter.convert_version(proto, wanted)
    except Exception as error:  # the converter's own
        raise InputError(
            f"the vision file cannot be brought to opset {wanted}: {one_line(error)}; export it so"
        ) from error
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.ir_version = like.ir_version
    del copy.metadata_props[:]
    return copy


def _merged(
    first: onnx.ModelProto, second: onnx.ModelProto, links: list[tuple[str, str]]
) -> onnx.ModelProto:
    try:
        return onnx.compose.merge_models(first, second, io_map=links)
    except Exception as error:  # the checker's own and ValueError
        raise InputError(
            f"the vision file and the policy cannot be joined: {one_line(error)}; give a file whose "
            "inputs are static"
        ) from error


@torch.no_grad()
def _by_parts(
    engine: OnnxEngine, tail: nn.Module, model: Model, row: dict[str, Any]
) -> NDArray[np.float32]:
    """Return what vision network and policy say when they run one after the other, (N,)."""
    if model.states:
        images = _Images()(*(torch.as_tensor(row[n]) for n in ("new_img", "state_img_q")))[:2]
        pairs = [image.numpy() for image in images]
    else:
        pairs = [row["img"], row["big_img"]]
    seen = engine.run(dict(zip(("img", "big_img"), pairs, strict=True)))
    others = [torch.as_tensor(row[n]) for n, i in model.inputs.items() if i.dtype != "uint8"]
    (flat, *_) = [tail(torch.as_tensor(next(iter(seen.values()))).float(), *others)]
    flat = flat[0] if isinstance(flat, tuple) else flat
    return np.asarray(flat[0], np.float32)
