"""A trained policy to the files of any generation: alone, as a pair with its vision network, or joined."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from steerlab.agents.drivingpolicy.network import DrivingPolicy
from steerlab.agents.drivingpolicy.probe import record_drive
from steerlab.agents.policynet.model import PolicyNet
from steerlab.agents.policynet.port import PortedPolicy
from steerlab.agents.policynet.probe import record_probe
from steerlab.errors import InputError
from steerlab.exporters.metadata import onnx_properties
from steerlab.exporters.openpilot import Exported, Paths, export_model, paths, write_beside
from steerlab.exporters.safety import checkpoint_text
from steerlab.exporters.supercombo import VisionFile, export_supercombo, read_vision
from steerlab.files import writable_folder
from steerlab.openpilot.contracts import Contract
from steerlab.openpilot.engines import Network, OnnxEngine
from steerlab.openpilot.metadata import Metadata
from steerlab.openpilot.probe import Probe
from steerlab.readers.graphs import write_graph


@dataclass
class ExportedPolicy:
    """What was written for a policy: its own files, and those of the vision network beside it."""

    policy: Exported
    vision: Exported | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def onnx(self) -> Path:
        """The ONNX file of the policy."""
        return self.policy.onnx

    @property
    def files(self) -> list[Path]:
        """Every file that was written."""
        return self.policy.files + (self.vision.files if self.vision else [])


def export_policy(
    policy: PolicyNet | DrivingPolicy,
    folder: str | Path,
    run: str,
    *,
    target: Contract | None = None,
    vision: str | Path = "",
    probe_vision: Network | None = None,
    places: Paths | None = None,
    half: bool = True,
    tinygrad: bool = True,
    tinygrad_path: str | Path | None = None,
) -> ExportedPolicy:
    """Write the files of a policy for a release.

    For a split release and without ``vision`` that is the policy alone; with it, the pair, both marked
    with the same text, so that it is clear which belong together. For a release with one network the
    vision network is needed and both become one graph.

    Args:
        policy: The trained policy. Its contract need not be the target: see
            :class:`~steerlab.agents.policynet.port.PortedPolicy` and
            :meth:`~steerlab.agents.drivingpolicy.network.DrivingPolicy.ported`.
        folder: Where the files go.
        run: Name of the training run, for ``model_checkpoint``.
        target: The release; by default that for which the policy was trained.
        vision: ONNX file of the vision network.
        probe_vision: The vision network where there is no such file (a tinygrad pickle): it makes the
            features of the probe, and the policy is written alone.
        places: Other paths of the policy's files.
        half: Write float16 variants too.
        tinygrad: Write tinygrad pickles too, where the release loads them for one network.
        tinygrad_path: Folder of the target's tinygrad.

    Raises:
        InputError: Policy, vision network and release do not fit one another.
    """
    target = target or policy.contract
    places = places or paths(folder, target.policy_name)
    for path in vars(places).values():
        writable_folder(path.parent)
    seen = read_vision(vision) if vision else None
    text = checkpoint_text(run, policy.features, _NAMES[type(policy)])
    if seen:
        text += f" pair {_fingerprint(policy, seen)}"
    notes = _notes(policy, target, seen)
    if not target.is_split:
        if seen is None:
            raise InputError(
                f"{target.id} is one network with its vision: give vision= of a driving_vision file"
            )
        ported = _ported(policy, target)
        done = export_supercombo(ported, seen, target, places, checkpoint=text, half=half)
        return ExportedPolicy(done, notes=notes + done.notes)
    network = policy if target == policy.contract else _ported(policy, target)
    if seen:
        probe_vision = Network(OnnxEngine(seen.proto.SerializeToString()), seen.slices)
    probe = _probe(network, probe_vision)
    done = export_model(
        network,
        target,
        network.model,
        folder,
        checkpoint=text,
        probe_inputs=probe.inputs if probe else None,
        driven_curvature=probe.driven_curvature if probe else None,
        v_ego=probe.v_ego if probe else None,
        half=half,
        tinygrad=tinygrad,
        tinygrad_path=tinygrad_path,
        places=places,
    )
    beside = None
    if seen:
        beside = _export_vision(seen, target, places, text, half, tinygrad, tinygrad_path)
    notes += done.notes + (beside.notes if beside else [])
    return ExportedPolicy(done, beside, list(dict.fromkeys(notes)))


_NAMES = {PolicyNet: "PolicyNet", DrivingPolicy: "driving policy"}


def _ported(policy: PolicyNet | DrivingPolicy, target: Contract) -> PortedPolicy | DrivingPolicy:
    """Return the policy in the target's terms."""
    if isinstance(policy, DrivingPolicy):
        return policy.ported(target)
    return PortedPolicy(policy, target)


def _probe(
    network: PolicyNet | PortedPolicy | DrivingPolicy, vision: Network | None
) -> Probe | None:
    """Return inputs that were recorded while it drove; None where there is nothing to see by."""
    if isinstance(network, DrivingPolicy):
        return record_drive(network, vision) if vision else None
    return record_probe(network, rows=4 if vision else 24, vision=vision)


def _export_vision(
    vision: VisionFile,
    target: Contract,
    beside: Paths,
    text: str,
    half: bool,
    tinygrad: bool,
    tinygrad_path: str | Path | None,
) -> Exported:
    """Write the vision network for the target beside the policy."""
    model = target.model("driving_vision")
    shapes = {name: spec.shape for name, spec in model.inputs.items()}
    own = f"{vision.checkpoint}; with " * bool(vision.checkpoint)
    metadata = Metadata(vision.slices, shapes, {"outputs": (1, vision.length)}, own + text)
    proto = onnx.ModelProto()
    proto.CopyFrom(vision.proto)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, onnx_properties(metadata))
    places = paths(beside.onnx.parent, "driving_vision")
    write_graph(places.onnx, proto)
    return write_beside(
        places, target, metadata, half=half, tinygrad=tinygrad, tinygrad_path=tinygrad_path
    )


def _fingerprint(policy: PolicyNet | DrivingPolicy, vision: VisionFile) -> str:
    """Return a short mark of the weights of both networks."""
    digest = hashlib.sha256()
    for name, values in sorted(policy.state_dict().items()):
        digest.update(name.encode() + values.detach().cpu().numpy().tobytes())
    for weights in vision.proto.graph.initializer:
        digest.update(weights.SerializeToString())
    return digest.hexdigest()[:12]


def _notes(
    policy: PolicyNet | DrivingPolicy, target: Contract, vision: VisionFile | None
) -> list[str]:
    notes = []
    if target != policy.contract:
        notes.append(
            f"trained for {policy.contract.id}, written for {target.id}: delays and smoothing of that "
            "release are not those of the training; drive held-out episodes before you rely on it"
        )
    if vision and policy.features != "vision":
        notes.append(
            f"this policy was trained on the features of {policy.features}: what the vision network "
            "makes means nothing to it, only the interface is whole"
        )
    return notes
