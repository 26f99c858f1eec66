"""The metadata beside and inside a model file, written as openpilot writes them."""

import codecs
import pickle
from pathlib import Path

from steerlab.files import atomic_path
from steerlab.openpilot.contracts import Model
from steerlab.openpilot.metadata import CHECKSUM, Metadata, checksum_of


def metadata_of(model: Model, checkpoint: str) -> Metadata:
    """Return the metadata of a network that was packed by the contract's layout."""
    shapes = {f"next_{n}": i.shape for n, i in model.states.items()}
    return Metadata(
        slices=model.slices,
        input_shapes={n: i.shape for n, i in model.inputs.items()},
        output_shapes={"outputs": (1, model.length), **shapes},
        checkpoint=checkpoint,
    )


def onnx_properties(metadata: Metadata) -> dict[str, str]:
    """Return the ``metadata_props`` of the ONNX file."""
    encoded = codecs.encode(pickle.dumps(metadata.slices), "base64").decode()
    return {"output_slices": encoded, "model_checkpoint": metadata.checkpoint}


def write_metadata(path: str | Path, metadata: Metadata) -> None:
    """Write ``*_metadata.pkl``."""
    contents = {
        "model_checkpoint": metadata.checkpoint,
        "output_slices": metadata.slices,
        "input_shapes": metadata.input_shapes,
        "output_shapes": metadata.output_shapes,
        CHECKSUM: checksum_of(metadata),
    }
    with atomic_path(path) as temporary:
        temporary.write_bytes(pickle.dumps(contents))
