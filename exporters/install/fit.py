"""Whether a network fits a contract, by its metadata alone."""

from collections.abc import Mapping

from steerlab.openpilot.contracts import contract, contract_ids
from steerlab.openpilot.metadata import Metadata


def mismatch(found: Metadata, contract_id: str, network: str) -> str:
    """Say what of a network's metadata a contract does not accept, '' if nothing.

    Inputs by name and shape, heads by name and width: what modeld would fail on.
    """
    release = contract(contract_id)
    if network not in release.model_names:
        return f"{contract_id} has no {network}, only {', '.join(release.model_names)}"
    shapes = _named(found.input_shapes) if network == "driving_vision" else found.input_shapes
    model = release.model(network, shapes=shapes)
    if missing := sorted(model.inputs.keys() - shapes.keys()):
        return f"input {missing[0]!r} is missing"
    extra = sorted(shapes.keys() - model.inputs.keys())
    if extra and not release.feeds_zeros_to_unknown_inputs:
        return f"input {extra[0]!r} is unknown to it"
    for name, spec in model.inputs.items():
        if shapes[name] != spec.shape:
            return f"input {name!r} is {shapes[name]}, not {spec.shape}"
    if "outputs" not in found.output_shapes:
        return "there is no output 'outputs'"
    length = found.output_shapes["outputs"][-1]
    for head in model.required:
        if head not in found.slices:
            return f"head {head!r} is missing"
    for head in model.widths:
        if head in found.slices:
            width = len(range(*found.slices[head].indices(length)))
            if not model.accepts(head, width):
                return f"head {head!r} has {width} values, not {_either(model.widths[head])}"
    return ""


def fitting(found: Metadata, network: str) -> list[str]:
    """Return the contracts that a network fits."""
    return [i for i in contract_ids() if not mismatch(found, i, network)]


def _named(shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple[int, ...]]:
    """Return the inputs of a vision network under the usual names: one with ``big`` is the wide one."""
    wide = [name for name in shapes if "big" in name]
    if len(shapes) != 2 or len(wide) != 1:
        return shapes
    return {"big_img" if name in wide else "img": shape for name, shape in shapes.items()}


def _either(values: tuple[int, ...]) -> str:
    return " or ".join(str(value) for value in values)
