"""Checks of what is written in and beside the file: one file, slices, metadata."""

import numpy as np

from steerlab.exporters.safety import INTERFACE_ONLY, is_unsafe
from steerlab.exporters.verify.base import Fail, Note, Skip, Subject
from steerlab.openpilot.metadata import read_metadata, slices_from_properties
from steerlab.openpilot.onnx_file import EMBED, static_shape


def one_file(subject: Subject) -> str:
    """The ONNX file holds its weights itself: openpilot's tools read it alone."""
    if subject.others:
        raise Fail(
            f"its weights lie in {', '.join(subject.others)}; openpilot's build copies and reads the "
            "ONNX file alone",
            f"embed them: {EMBED}",
        )
    return f"{subject.path.stat().st_size / 1e6:.1f} MB, weights included"


def properties(subject: Subject) -> str:
    """The ONNX file holds the slices, as openpilot's build reads them."""
    found = {p.key: p.value for p in subject.proto.metadata_props}
    subject.slices = slices_from_properties(found, "the ONNX file")
    checkpoint = found.get("model_checkpoint") or "none"
    return f"{len(subject.slices)} slices, checkpoint {checkpoint!r}"


def road(subject: Subject) -> str:
    """No verdict: what all the other checks do not say."""
    checkpoint = {p.key: p.value for p in subject.proto.metadata_props}.get("model_checkpoint", "")
    told = f" The file says of itself: {checkpoint}." * is_unsafe(checkpoint)
    raise Note(INTERFACE_ONLY + told)


def metadata(subject: Subject) -> str:
    """The metadata file agrees with the graph and the slices."""
    path = subject.beside("metadata.pkl", subject.options.metadata)
    if not path.is_file() and subject.contract.tinygrad_device is None:
        raise Skip(f"{subject.contract.id} keeps it inside the artefacts of its own build")
    found = read_metadata(path)
    if "outputs" not in found.output_shapes:
        raise Fail(
            "output_shapes has no 'outputs'",
            "write {'outputs': (1, N)}: modeld reads that name",
        )
    shape = found.output_shapes["outputs"]
    if subject.length is not None and shape != (1, subject.length):
        raise Fail(
            f"outputs is {shape} there, (1, {subject.length}) in the graph", "export both anew"
        )
    for name, value in subject.inputs.items():
        wanted = static_shape(value)
        if found.input_shapes.get(name) != wanted:
            raise Fail(
                f"input_shapes has {found.input_shapes.get(name)} for {name}",
                f"write {wanted}, as in the graph",
            )
    if subject.slices is None:
        subject.slices = found.slices
    elif found.slices != subject.slices:
        raise Fail("its slices differ from those in the ONNX file", "export both anew")
    return path.name


def slices(subject: Subject) -> str:
    """The slices cover the vector once."""
    if subject.slices is None or subject.length is None:
        raise Skip("no slices or no output to hold them against")
    length = subject.length
    covered = np.zeros(length, int)
    for name, place in subject.slices.items():
        if not all(-length <= bound <= length for bound in (place.start or 0, place.stop or 0)):
            raise Fail(f"{name} is {place} of {length} values", "keep it inside the vector")
        if not len(range(*place.indices(length))):
            raise Fail(
                f"{name} is {place}, which picks nothing", "write where the head begins and ends"
            )
        covered[place] += 1
    if covered.max(initial=0) > 1:
        raise Fail(f"value {int(covered.argmax())} is in two slices", "let no slices overlap")
    if not covered.all():
        raise Fail(
            f"value {int(covered.argmin())} is in no slice", "cover the vector; name the rest pad"
        )
    return f"cover all {length} values once"
