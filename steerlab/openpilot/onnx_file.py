"""ONNX files of strangers: what is wrong with one is said before anything is computed."""

import io
import re
from pathlib import Path
from typing import Any, TypeVar

import onnx
from google.protobuf.message import DecodeError, Message
from onnx.external_data_helper import uses_external_data

from steerlab.errors import InputError
from steerlab.readers.graphs import LARGEST_GRAPH, check_hash, check_text, one_line
from steerlab.readers.text import read_bytes

_LFS = b"version https://git-lfs.github.com/spec/"
T = TypeVar("T", bound=Message)


def check_file(path: str | Path, what: str = "file", remedy: str = "check the path") -> Path:
    """Return the path of a file that is there, holds something, and is no Git LFS pointer.

    Args:
        path: The file.
        what: What it should be, for the messages: ``"metadata file"``.
        remedy: What helps where there is no such file.

    Raises:
        InputError: It is absent, a folder, unreadable, empty, or stands for a file that was not fetched.
    """
    path, name = Path(path), f"{what} {str(path)!r}"
    try:
        there = path.is_file()
        with path.open("rb") if there else io.BytesIO() as file:
            start = file.read(1024)
    except (OSError, ValueError) as error:
        raise InputError(f"the {name} cannot be read: {error}; {remedy}") from error
    if not there:
        raise InputError(f"there is no {name}; {remedy}")
    if not start:
        raise InputError(f"the {name} is empty; copy or export it again")
    if start.startswith(_LFS):
        size = re.search(rb"^size (\d{1,15})$", start, re.MULTILINE)
        stands = f" for a file of {int(size[1]):,} bytes" if size else ""
        raise InputError(
            f"the {name} is a Git LFS pointer{stands}, not the file itself; fetch it: git lfs pull"
        )
    return path


def read_onnx(path: str | Path, weights: bool = True, what: str = "file") -> onnx.ModelProto:
    """Return an ONNX file.

    Args:
        path: The file.
        weights: Read weights that lie in other files too.
        what: What the file is called in the message where it is absent.

    Raises:
        InputError: The file is absent, a Git LFS pointer or no ONNX file, or a file with weights is
            missing.
    """
    path = check_file(path, what, "give the path of an ONNX file")
    data = read_bytes(path, LARGEST_GRAPH)
    try:
        proto = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not an ONNX file; export it again") from error
    if not proto.HasField("graph") or not proto.graph.output:
        raise InputError(f"{str(path)!r} is not an ONNX file: it has no graph; export it again")
    check_text(proto, repr(str(path)))
    check_hash(proto, repr(str(path)))
    others = external_files(proto)
    for name in others:
        try:
            check_file(path.parent / name)
        except InputError as error:
            raise InputError(
                f"{str(path)!r} keeps its weights in another file, and {error}; or embed them where "
                f"both files are: {EMBED}"
            ) from error
    if weights and others:
        try:
            onnx.load_external_data_for_model(proto, str(path.parent))
        except Exception as error:  # the checker's and protobuf's own
            raise InputError(
                f"the weights of {str(path)!r} cannot be read: {one_line(error)}; export it again"
            ) from error
    return proto


#: How weights get into the one file that openpilot reads.
EMBED = "onnx.save(onnx.load(path), path, save_as_external_data=False)"


def external_files(proto: onnx.ModelProto) -> list[str]:
    """Return the names of the other files in which a model keeps its weights."""
    found = {
        entry.value
        for tensor in _parts(proto, onnx.TensorProto)
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sorted(found)


def nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return every node of a model, those of branches, loops and functions included."""
    return _parts(proto, onnx.NodeProto)


def _parts(proto: onnx.ModelProto, kind: type[T]) -> list[T]:
    """Return every message of a kind anywhere in a model."""
    found: list[T] = []
    waiting: list[Message] = [proto]
    while waiting:
        part = waiting.pop()
        if isinstance(part, kind):
            found.append(part)
        for field, value in part.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if isinstance(value, Message) else value)
    return found


def graph_inputs(proto: onnx.ModelProto) -> dict[str, Any]:
    """Return the inputs of a graph that are not weights, by name."""
    weights = {i.name for i in proto.graph.initializer}
    return {i.name: i for i in proto.graph.input if i.name not in weights}


def dimensions(value: Any) -> tuple[int | str, ...]:
    """Return the shape of an input or output; a free axis is its name, or ``?``."""
    return tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or "?"
        for d in value.type.tensor_type.shape.dim
    )


def static_shape(value: Any) -> tuple[int, ...]:
    """Return the shape of an input or output with 0 for a free axis, as openpilot reads it."""
    return tuple(d if isinstance(d, int) else 0 for d in dimensions(value))


def element_type(value: Any) -> str:
    """Return the type of an input's or output's values, for example ``float`` or ``uint8``."""
    kind = value.type.WhichOneof("value") or "nothing"
    if kind != "tensor_type":
        return kind.removesuffix("_type")
    number = value.type.tensor_type.elem_type
    if number not in onnx.TensorProto.DataType.values():
        return f"type {number}"
    return onnx.TensorProto.DataType.Name(number).lower()
