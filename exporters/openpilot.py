"""A torch module to the files that modeld loads: ONNX, metadata, tinygrad pickle.

Beside them goes a probe: a few inputs with what the network means for them, in units, before any
packing. :mod:`steerlab.exporters.verify` holds every later reading of the file against it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from steerlab.errors import InputError
from steerlab.exporters.metadata import metadata_of, onnx_properties, write_metadata
from steerlab.exporters.onnx import export_onnx, half_precision
from steerlab.exporters.tinygrad import compile_tinygrad
from steerlab.openpilot.contracts import Contract, Model
from steerlab.openpilot.in_graph import Packed
from steerlab.openpilot.metadata import Metadata
from steerlab.openpilot.outputs import parse
from steerlab.openpilot.probe import Probe, example_inputs, write_probe
from steerlab.openpilot.tinygrad import missing_compiler
from steerlab.readers.graphs import read_graph, write_graph
from steerlab.types import Array


@dataclass(frozen=True)
class Paths:
    """Where the files of a network go."""

    onnx: Path
    metadata: Path
    tinygrad: Path
    half: Path
    probe: Path


def paths(
    folder: str | Path,
    name: str,
    onnx: str | Path = "",
    metadata: str | Path = "",
    tinygrad: str | Path = "",
) -> Paths:
    """Return where the files of network ``name`` go.

    Args:
        folder: Where ``<name>.onnx`` goes.
        name: Name of the network.
        onnx: Another path of the ONNX file; the others lie beside it, named after it.
        metadata: Another path of the metadata.
        tinygrad: Another path of the tinygrad pickle.
    """
    file = Path(onnx) if onnx else Path(folder) / f"{name}.onnx"

    def beside(ending: str) -> Path:
        return file.with_name(f"{file.stem}_{ending}")

    return Paths(
        file,
        Path(metadata) if metadata else beside("metadata.pkl"),
        Path(tinygrad) if tinygrad else beside("tinygrad.pkl"),
        beside("fp16.onnx"),
        beside("probe.npz"),
    )


@dataclass
class Exported:
    """What an export wrote."""

    onnx: Path
    metadata: Path
    probe: Path | None = None
    half: Path | None = None
    tinygrad: Path | None = None
    difference: float = 0.0  # between torch and onnxruntime
    notes: list[str] = field(default_factory=list)  # on what was skipped, and how to get it

    @property
    def files(self) -> list[Path]:
        """Every file that was written."""
        found = (self.onnx, self.metadata, self.half, self.tinygrad, self.probe)
        return [path for path in found if path]


def export_model(
    network: nn.Module,
    contract: Contract,
    model: Model,
    folder: str | Path,
    *,
    checkpoint: str = "",
    probe_inputs: Mapping[str, Array] | None = None,
    driven_curvature: ArrayLike | None = None,
    v_ego: ArrayLike | None = None,
    half: bool = True,
    tinygrad: bool = True,
    tinygrad_path: str | Path | None = None,
    tolerance: float = 1e-4,
    places: Paths | None = None,
) -> Exported:
    """Write ``<model>.onnx``, ``_metadata.pkl``, ``_fp16.onnx``, ``_tinygrad.pkl``, ``_probe.npz``.

    Args:
        network: Takes the contract's inputs in their order, one row each, and returns named
            tensors (see :func:`~steerlab.openpilot.outputs.pack`), the flat output, or,
            for forms with the history in the graph, a tuple with the next states.
        contract: The target.
        model: Its network, with the chosen widths.
        folder: Where the files go.
        checkpoint: Text that names the training run.
        probe_inputs: Recorded inputs, best from driving, each ``(K, *shape)`` with the shape of the
            input without its batch axis. Random by default: ``verify-export`` then judges no steering.
        driven_curvature: What the car drove from each of them, 1/m, positive to the right, (K,).
        v_ego: Speed at each of them, m/s, (K,).
        half: Write the float16 variant too.
        tinygrad: Write the tinygrad pickle too.
        tinygrad_path: Folder of the target's tinygrad.
        tolerance: Largest difference accepted between torch and onnxruntime, of values beyond 1 as a
            share of the value: plans reach to 200 m.
        places: Other paths of the files.

    Raises:
        InputError: The module returns something else than the contract wants, torch and onnxruntime
            differ, or a file cannot be written.
    """
    places = places or paths(folder, model.name)
    network.eval()
    inputs = dict(probe_inputs) if probe_inputs else example_inputs(model)
    examples = _examples(model, inputs)
    module, meaning = _flat(network, model, examples)
    metadata = metadata_of(model, checkpoint)
    difference = _write_graph(module, examples[0], model, places.onnx, metadata, tolerance)
    with torch.no_grad():
        flat = np.concatenate([_first(module(*e)).numpy() for e in examples])
    probe = Probe(
        inputs=_arrays(inputs),
        outputs=flat,
        meaning=meaning or parse(model.slices, flat),
        **_arrays({"driven_curvature": driven_curvature, "v_ego": v_ego}),
        recorded=bool(probe_inputs),
    )
    return write_beside(
        places, contract, metadata, probe, difference, half, tinygrad, tinygrad_path
    )


def _examples(model: Model, inputs: Mapping[str, Array]) -> list[list[Tensor]]:
    """Return each of the recorded inputs as tensors in the order of the contract, batch axis first."""
    return [
        [torch.as_tensor(inputs[n][k], dtype=getattr(torch, i.dtype)).reshape(i.shape)
         for n, i in model.inputs.items()]
        for k in range(len(next(iter(inputs.values()))))
    ]  # fmt: skip


def _write_graph(
    module: nn.Module,
    example: list[Tensor],
    model: Model,
    path: Path,
    metadata: Metadata,
    tolerance: float,
) -> float:
    return export_onnx(
        _UsesEveryInput(module, _unused(module, example)),
        example,
        path,
        list(model.inputs),
        model.output_names,
        dynamic_batch=False,
        metadata=onnx_properties(metadata),
        tolerance=tolerance,
    )


def _arrays(values: Mapping[str, ArrayLike | None]) -> dict[str, Any]:
    return {name: None if v is None else np.asarray(v) for name, v in values.items()}


def write_beside(
    places: Paths,
    contract: Contract,
    metadata: Metadata,
    probe: Probe | None = None,
    difference: float = 0.0,
    half: bool = True,
    tinygrad: bool = True,
    tinygrad_path: str | Path | None = None,
) -> Exported:
    """Write what belongs beside the ONNX file that is there; the arguments are export_model's."""
    result = Exported(places.onnx, places.metadata, difference=difference)
    write_metadata(places.metadata, metadata)
    if probe:
        result.probe = places.probe
        write_probe(places.probe, probe)
    if half:
        result.half = places.half
        write_graph(places.half, half_precision(read_graph(places.onnx)))
    if tinygrad:
        _compile(contract, places, result, tinygrad_path)
    return result


def _compile(
    contract: Contract, places: Paths, result: Exported, tinygrad_path: str | Path | None
) -> None:
    if contract.tinygrad_device is None:
        result.notes.append(
            f"no tinygrad pickle: {contract.build}; build it there from the ONNX file"
        )
    elif missing := missing_compiler():
        result.notes.append(f"no tinygrad pickle: {missing}")
    else:
        info = compile_tinygrad(
            places.onnx,
            places.tinygrad,
            device=contract.tinygrad_device,
            tinygrad_path=tinygrad_path,
        )
        result.tinygrad = places.tinygrad
        if not tinygrad_path:
            result.notes.append(
                f"the pickle fits tinygrad {info['tinygrad']} on {info['device']} only; for a car, "
                "give tinygrad_path= of the target or compile the ONNX file there"
            )


def _flat(
    network: nn.Module, model: Model, examples: list[list[Tensor]]
) -> tuple[nn.Module, dict[str, Array]]:
    """Return a module with the flat output, and what its named tensors mean, if it has any."""
    with torch.no_grad():
        found = [network(*example) for example in examples]
    if isinstance(found[0], Mapping):
        named = {n: np.concatenate([f[n].numpy() for f in found]) for n in found[0]}
        return Packed(network, model), meaning_of(model, named)
    shape = tuple(_first(found[0]).shape)
    if shape != (1, model.length):
        raise InputError(
            f"the network returns {shape}, {model.name} needs (1, {model.length}); return the "
            "named tensors and leave the packing to the exporter"
        )
    return network, {}


def meaning_of(model: Model, named: Mapping[str, Array]) -> dict[str, Array]:
    """Return means, standard deviations and probabilities of named tensors, without packing."""
    meaning: dict[str, Array] = {}
    for head in model.heads.values():
        values = [torch.as_tensor(named[name]) for name in head.tensors]
        if head.kind == "sigmoid":
            meaning[head.name] = values[0].sigmoid().numpy()
        elif head.kind == "softmax":
            meaning[head.name] = values[0].softmax(-1).numpy()
        elif head.kind == "raw":
            meaning[head.name] = values[0].numpy()
        else:
            several = head.kind == "mixture"
            suffix = "_hypotheses" if several else ""
            mean, std = values[0].numpy(), values[1].clamp(max=11.0).exp().numpy()
            if several and head.selections == 1:  # the consumer sorts them
                weights = values[2].softmax(1).numpy()[..., 0]
                order = np.argsort(weights, axis=1)[:, ::-1]
                rows = np.arange(len(mean))[:, None]
                mean, std = mean[rows, order], std[rows, order]
                meaning[f"{head.name}_weights"] = weights[rows, order][..., None]
            elif several:
                meaning[f"{head.name}_weights"] = values[2].softmax(1).numpy()
            meaning[head.name + suffix], meaning[f"{head.name}_stds{suffix}"] = mean, std
    return meaning


class _UsesEveryInput(nn.Module):
    """Adds zero times every input that the network ignores: modeld feeds them all by name."""

    def __init__(self, module: nn.Module, unused: list[int]) -> None:
        super().__init__()
        self.module, self.unused = module, unused

    def forward(self, *inputs: Tensor) -> Any:
        found = self.module(*inputs)
        if not self.unused:
            return found
        flat, *states = [found] if isinstance(found, Tensor) else found
        for index in self.unused:
            flat = flat + 0.0 * inputs[index].to(flat.dtype).mean()
        return (flat, *states) if states else flat


@torch.no_grad()
def _unused(module: nn.Module, example: list[Tensor]) -> list[int]:
    """Return the inputs that seem to change nothing; a wrong guess costs one addition."""
    before = _outputs(module(*example))
    found = []
    for index, values in enumerate(example):
        other = values ^ 255 if values.dtype == torch.uint8 else values + 1.0
        after = _outputs(module(*example[:index], other, *example[index + 1 :]))
        if all(torch.equal(b, a) for b, a in zip(before, after, strict=True)):
            found.append(index)
    return found


def _outputs(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)


def _first(found: Any) -> Tensor:
    return _outputs(found)[0]
