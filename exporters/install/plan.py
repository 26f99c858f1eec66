"""What an installation changes: the files that are given, checked against the target's contract."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from steerlab.errors import InputError
from steerlab.exporters.install.fit import fitting, mismatch
from steerlab.exporters.install.targets import BUNDLE, Target, expand
from steerlab.exporters.metadata import write_metadata
from steerlab.exporters.safety import is_unsafe
from steerlab.exporters.verify import Check, Options, failed, verify_export
from steerlab.openpilot.contracts import Contract, contract
from steerlab.openpilot.metadata import Metadata, read_metadata, slices_from_properties
from steerlab.openpilot.onnx_file import (
    check_file,
    external_files,
    graph_inputs,
    read_onnx,
    static_shape,
)
from steerlab.openpilot.tinygrad import holds_jit

VISION = "driving_vision"
#: The source of a pickle that was not built here.
GIVEN = "given"


@dataclass(frozen=True)
class Given:
    """The files of one network: the ONNX file, from which the rest is built, or what was built."""

    onnx: str = ""
    tinygrad: str = ""
    metadata: str = ""

    def __bool__(self) -> bool:
        return bool(self.onnx or self.tinygrad or self.metadata)


@dataclass
class Network:
    """One network of a plan: what was staged of it, all paths in the folder of the staging."""

    name: str
    metadata: Metadata
    onnx: Path | None = None
    pickle: Path | None = None
    source: str = ""  # where the pickle comes from
    metadata_file: Path | None = None


@dataclass(frozen=True)
class Change:
    """A file of the target that gets other contents, or goes."""

    name: str
    source: Path | None  # None: it goes
    why: str


@dataclass
class Plan:
    """What an installation would do.

    Attributes:
        target: Where.
        contract: The contract that the target needs and the files fulfil.
        networks: What is installed.
        checks: Results of verify-export by network.
        notes: What is worth knowing.
    """

    target: Target
    contract: Contract
    networks: list[Network]
    checks: dict[str, list[Check]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def pickles(self) -> bool:
        """Whether the target loads a pickle for each network."""
        return self.target.separate and self.contract.tinygrad_device is not None

    @property
    def builds(self) -> list[Network]:
        """Networks whose pickle is still to be built with the target's tinygrad."""
        if not (self.pickles and self.target.tinygrad):
            return []
        return [n for n in self.networks if n.onnx and n.pickle is None]

    def changes(self) -> list[Change]:
        """Return every file that changes in ``target.models``, in a fixed order."""
        return [change for network in self.networks for change in self._changes(network)]

    def _changes(self, network: Network) -> Iterator[Change]:
        where = self.target
        if network.onnx and where.kind != BUNDLE:
            name = where.file(network.name, "onnx")
            yield Change(name, network.onnx, GIVEN)
            yield from self._chunks(name)
        if not self.pickles:
            return
        yield Change(where.file(network.name, "metadata.pkl"), network.metadata_file, "slices")
        name = where.file(network.name, "tinygrad.pkl")
        yield from self._chunks(name)
        if network.pickle or network in self.builds:
            why = network.source or f"built with {where.tinygrad}"
            yield Change(name, network.pickle, why)
        elif (where.models / name).exists():
            yield Change(name, None, "of the old network; build it there")

    def _chunks(self, name: str) -> Iterator[Change]:
        """Yield the parts of an old file that was cut up: they would be read in place of the new one."""
        for path in sorted(self.target.models.glob(f"{name}.chunk*")):
            yield Change(path.name, None, "part of the old file")


def prepare(
    target: Target,
    vision: Given,
    policy: Given,
    staging: Path,
    *,
    untrained: bool = False,
) -> Plan:
    """Copy what is given into ``staging``, check it against the target's contract, and say what changes.

    Args:
        target: Where it goes.
        vision: Files of the vision network, if any.
        policy: Files of the policy, or of the one network of 2026.
        staging: An empty folder.
        untrained: Do not expect the plan to drive.

    Raises:
        InputError: Nothing is given, a file cannot be read, or it does not fit the contract.
    """
    if not (vision or policy):
        raise InputError("nothing to install: give vision= and policy=, ONNX files")
    release = _contract(target, vision, policy)
    networks = []
    for given, name in ((vision, VISION), (policy, release.policy_name)):
        if given:
            if name not in release.model_names:
                raise InputError(
                    f"{release.id} is one network: join both with steerlab export-policy vision= "
                    f"contract={release.id}, and give that file as policy="
                )
            networks.append(_stage(given, name, staging))
    plan = Plan(target, release, networks, notes=list(target.notes))
    for network in networks:
        if wrong := mismatch(network.metadata, release.id, network.name):
            raise InputError(_refusal(target, network, release, wrong))
        if network.onnx:
            options = Options(tinygrad=False, untrained=untrained, runs=5)
            found = verify_export(network.onnx, release, network.name, options)
            plan.checks[network.name] = found
            if bad := failed(found):
                raise InputError(
                    f"{network.name} is no drop-in for {release.id}: {bad[0].name}: {bad[0].found}; "
                    f"{bad[0].remedy}"
                )
    plan.notes += _notes(plan, vision, policy)
    return plan


def _contract(target: Target, vision: Given, policy: Given) -> Contract:
    """Return the contract of the target that the files fit best."""
    for name in target.accepts:
        release = contract(name)
        pairs = ((policy, release.policy_name), (vision, VISION))
        if all(not g or not mismatch(_metadata(g), name, n) for g, n in pairs):
            return release
    return contract(target.accepts[0])


def _metadata(given: Given) -> Metadata:
    """Return the metadata of a network: from its file, else from the ONNX file."""
    if given.metadata:
        return read_metadata(expand(given.metadata))
    if not given.onnx:
        raise InputError(
            f"tinygrad pickle {given.tinygrad!r} needs its metadata: give the *_metadata.pkl or the ONNX "
            "file, too"
        )
    path = expand(given.onnx)
    proto = read_onnx(path, weights=False, what="ONNX file")
    properties = {p.key: p.value for p in proto.metadata_props}
    return Metadata(
        slices_from_properties(properties, repr(str(path))),
        {n: static_shape(i) for n, i in graph_inputs(proto).items()},
        {o.name: static_shape(o) for o in proto.graph.output},
        properties.get("model_checkpoint", ""),
    )


def _stage(given: Given, name: str, staging: Path) -> Network:
    """Copy the files of a network under the names that they will have in a checkout."""
    network = Network(name, _metadata(given), metadata_file=staging / f"{name}_metadata.pkl")
    assert network.metadata_file
    if given.metadata:
        shutil.copyfile(expand(given.metadata), network.metadata_file)
    else:
        write_metadata(network.metadata_file, network.metadata)
    if given.onnx:
        source = expand(given.onnx)
        if others := external_files(read_onnx(source, weights=False)):
            raise InputError(
                f"{given.onnx!r} keeps its weights in {others[0]}, which openpilot's build does not "
                "read; embed them"
            )
        network.onnx = staging / f"{name}.onnx"
        shutil.copyfile(source, network.onnx)
        probe = source.with_name(f"{source.stem}_probe.npz")
        if probe.is_file():
            shutil.copyfile(probe, staging / f"{name}_probe.npz")
    if given.tinygrad:
        source = check_file(expand(given.tinygrad), "tinygrad pickle")
        if not holds_jit(source):
            raise InputError(
                f"{given.tinygrad!r} holds no captured TinyJit, which is what modeld calls; export it "
                "with steerlab export-policy or export-vision"
            )
        network.pickle, network.source = staging / f"{name}_tinygrad.pkl", GIVEN
        shutil.copyfile(source, network.pickle)
    return network


def _refusal(target: Target, network: Network, release: Contract, wrong: str) -> str:
    fits = fitting(network.metadata, network.name)
    others = f"; it fits {', '.join(fits)}" if fits else ""
    study = "export-vision" if network.name == VISION else "export-policy"
    return (
        f"{network.name} does not fit {target.kind} in {str(target.models)!r}, which needs {release.id}: "
        f"{wrong}{others}. Export it anew: steerlab {study} contract={release.id}"
    )


def _notes(plan: Plan, vision: Given, policy: Given) -> list[str]:
    notes = []
    if plan.contract.is_split and not (vision and policy):
        missing = "policy" if vision else "vision network"
        notes.append(f"the {missing} stays as it is: a policy means nothing beside another vision")
    if not plan.pickles:
        how = plan.contract.build or "the checkout's own build makes its pickles"
        notes.append(f"only the ONNX file is installed; build there: scons ({how})")
    elif any(n.onnx and n.pickle is None for n in plan.networks) and not plan.builds:
        notes.append("no tinygrad of the target: its pickles are left to its own build (scons)")
    if any(is_unsafe(n.metadata.checkpoint) for n in plan.networks):
        notes.append("the files say of themselves that they must not steer a car")
    return notes
