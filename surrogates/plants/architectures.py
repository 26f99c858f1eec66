"""The architectures of learned plants: made by name, and read back from their ONNX files."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from steerlab.errors import InputError, unknown_name
from steerlab.surrogates.plants.constants import constants
from steerlab.surrogates.plants.gru import GruSurrogate
from steerlab.surrogates.plants.shaped import ShapedSurrogate, SurrogateModel
from steerlab.surrogates.plants.tcn import TcnSurrogate

FORM = "2"  # of what the network's numbers mean; a file of another form cannot be read back

ARCHITECTURES: dict[str, type[ShapedSurrogate]] = {"gru": GruSurrogate, "tcn": TcnSurrogate}


def build(architecture: str, size: str) -> SurrogateModel:
    """Return an untrained model.

    Raises:
        InputError: There is no such architecture or size.
    """
    if architecture not in ARCHITECTURES:
        raise unknown_name("architecture", architecture, ARCHITECTURES)
    return ARCHITECTURES[architecture](size)


def keep_weights(proto: onnx.ModelProto, model: SurrogateModel) -> None:
    """Add those weights to a file that the exporter did not store as they are.

    So a network can be read back from its file, whatever the exporter made of it.
    """
    stored = {i.name for i in proto.graph.initializer}
    for name, value in model.state_dict().items():
        if name not in stored:
            proto.graph.initializer.append(numpy_helper.from_array(value.cpu().numpy(), name))


def read_surrogate(
    proto: onnx.ModelProto, metadata: Mapping[str, str], path: object
) -> SurrogateModel:
    """Return the model that an ONNX file of ours holds, with its weights.

    Args:
        proto: The file.
        metadata: Its ``metadata_props``.
        path: Where it came from, for messages.

    Raises:
        InputError: The file is of another version, or the graph does not hold the weights that its
            metadata promises.
    """
    if metadata.get("steerlab.form") != FORM:
        raise InputError(
            f"plant {str(path)!r} was exported by another version of steerlab, whose numbers mean "
            "something else; it runs with runtime=exact or fast, for torch train it again"
        )
    try:
        model = build(metadata["steerlab.architecture"], metadata["steerlab.size"])
        stored = constants(proto)
        wanted = model.state_dict()
        if not wanted.keys() <= stored.keys():
            stored |= _gru_weights(proto.graph, stored)
        model.load_state_dict({k: torch.from_numpy(np.array(stored[k])) for k in wanted})
    except (KeyError, StopIteration, RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            f"plant {str(path)!r} says it is one of steerlab's, but its weights are not where they "
            f"belong ({type(error).__name__}: {error}); export it again"
        ) from error
    return model.eval()


def _gru_weights(
    graph: onnx.GraphProto, stored: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return the weights of a recurrent plant by what the graph does with them.

    Files of before :func:`keep_weights` hold some of them only as the exporter turned them.
    """
    weights = {}
    matrices = [n.input[1] for n in graph.node if n.op_type == "MatMul" and n.input[1] in stored]
    for name, matrix in zip(("head.0.weight", "head.2.weight"), matrices, strict=False):
        weights[name] = stored[matrix].T
    gru = next(node for node in graph.node if node.op_type == "GRU")
    inputs, recurrent, biases = (stored[name][0] for name in gru.input[1:4])
    hidden = recurrent.shape[1]

    def reset_first(values: NDArray[Any]) -> NDArray[Any]:
        """Turn ONNX's order of gates (update, reset, new) into torch's (reset, update, new)."""
        update, reset, new = np.split(values, 3)
        return np.concatenate([reset, update, new])

    weights["gru.weight_ih_l0"] = reset_first(inputs)
    weights["gru.weight_hh_l0"] = reset_first(recurrent)
    for name, values in zip(("ih", "hh"), np.split(biases, [3 * hidden]), strict=True):
        weights[f"gru.bias_{name}_l0"] = reset_first(values)
    return weights
