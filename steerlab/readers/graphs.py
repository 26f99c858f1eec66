"""ONNX files: written with a hash, read with it, and tried out with limits where there is none.

A graph can ask for any amount of time and memory while onnxruntime prepares it, so one that steerlab
did not write is first run in a process of its own. The hash is a checksum, no signature: it tells
damage, not who wrote the file.
"""

import hashlib
import re
import subprocess
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime as ort

from steerlab.errors import InputError
from steerlab.files import atomic_path
from steerlab.readers.text import read_bytes

if TYPE_CHECKING:  # loaded where a file is read or written: it takes a third of a second
    import onnx

LARGEST_GRAPH = 2**30  # bytes of a file
HASH_KEY = "steerlab.sha256"
_TRIAL = Path(__file__).with_name("_graph_trial.py")
_MOST = 400  # characters of a reason that are shown
_tried: dict[bytes, str] = {}  # what the trial of a file found, by its SHA-256


def write_graph(path: str | Path, model: "onnx.ModelProto") -> None:
    """Write a model with a hash of itself in its ``metadata_props``, atomically."""
    import onnx

    stamped = onnx.ModelProto()
    stamped.CopyFrom(model)
    forget_hash(stamped)
    stamp = _hash(stamped)
    entry = stamped.metadata_props.add()
    entry.key, entry.value = HASH_KEY, stamp
    with atomic_path(path) as temporary:
        temporary.write_bytes(stamped.SerializeToString(deterministic=True))


def read_graph(
    path: str | Path, runs: bool = True, trusted: Container[str] = ()
) -> "onnx.ModelProto":
    """Read an ONNX file.

    Args:
        path: The file; its tensors must be inside it.
        runs: Prove that onnxruntime can run it within the limits of :func:`try_graph`, unless
            steerlab wrote it.
        trusted: SHA-256 of files, in hexadecimal, that need no such proof.

    Raises:
        InputError: It is absent, no ONNX file, damaged, names other files, or does not run.
    """
    data = read_bytes(path, LARGEST_GRAPH)
    model = parse_graph(data, repr(str(path)))
    known = check_hash(model, repr(str(path)))
    if runs and not known and hashlib.sha256(data).hexdigest() not in trusted:
        try_graph(data, repr(str(path)))
    return model


def check_hash(model: "onnx.ModelProto", source: str) -> bool:
    """Tell whether steerlab wrote a hash into a model.

    Raises:
        InputError: It did, and the model is another one now.
    """
    known = [p.value for p in model.metadata_props if p.key == HASH_KEY]
    if known and known != [_hash(model)]:
        raise InputError(
            f"{source} is damaged: it does not have the hash that steerlab wrote into it; export it "
            f"again, or remove {HASH_KEY!r} from its metadata if it was changed on purpose"
        )
    return bool(known)


def parse_graph(data: bytes, source: str) -> "onnx.ModelProto":
    """Return the model of an ONNX file's contents, without reading any other file.

    Raises:
        InputError: They are not ONNX, or keep tensors in other files.
    """
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own, which is not public
        raise InputError(f"{source} is not an ONNX file") from error
    if not model.graph.node:
        raise InputError(f"{source} is not an ONNX file, or one without operations")
    check_text(model, source)
    if any(t.external_data or t.data_location for t in _tensors(model.graph)):
        raise InputError(f"{source} keeps tensors in other files; export it as one file")
    return model


def check_text(model: "onnx.ModelProto", source: str) -> None:
    """Refuse names and properties that are no UTF-8; protobuf returns those as bytes.

    Raises:
        InputError: There is one.
    """
    graph = model.graph
    texts = [text for p in model.metadata_props for text in (p.key, p.value)]
    texts += [value.name for value in (*graph.input, *graph.output, *graph.initializer)]
    for node in graph.node:
        texts += [node.name, node.op_type, node.domain, *node.input, *node.output]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"{source} is a damaged ONNX file: a name in it is no text; export it again"
        )


def open_session(data: bytes, source: str, threads: int = 1) -> ort.InferenceSession:
    """Return an onnxruntime session on the CPU.

    Args:
        data: Contents of an ONNX file.
        source: What the message says of where they are from.
        threads: Threads of one operation.

    Raises:
        InputError: onnxruntime cannot run it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no other base class
        raise InputError(
            f"onnxruntime cannot run {source}: {one_line(error)}; export it again"
        ) from error


def try_graph(data: bytes, source: str) -> None:
    """Prepare and run a graph once, on zeros, in a process with limits on time and memory.

    Raises:
        InputError: It cannot be prepared, or not within the limits: 4 s of computing and 512 MB,
            more for a larger file.
    """
    digest = hashlib.sha256(data).digest()
    if digest not in _tried:
        _tried[digest] = _trial(data)
    if reason := _tried[digest]:
        raise InputError(f"onnxruntime cannot run {source}: {one_line(reason)}; export it again")


def _trial(data: bytes) -> str:
    """Return what went wrong, or nothing."""
    command = [sys.executable, "-P", str(_TRIAL)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return "it does not come to an end"
    text = done.stderr.decode(errors="replace").strip()
    if done.returncode == 0:
        return ""
    if done.returncode in (1, 3):  # 1: Python itself failed
        return text.rpartition("\n")[2][-300:]
    return "it needs more time or memory than a driving model may, or crashes"


def _tensors(graph: "onnx.GraphProto") -> Iterator["onnx.TensorProto"]:
    """Yield every stored tensor of a graph and of the graphs inside it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    yield from _tensors(inner)


def forget_hash(model: "onnx.ModelProto") -> None:
    """Remove the hash, as whoever changes a model on purpose has to."""
    kept = [(p.key, p.value) for p in model.metadata_props if p.key != HASH_KEY]
    del model.metadata_props[:]
    for key, value in kept:
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


def _hash(model: "onnx.ModelProto") -> str:
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    forget_hash(bare)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def one_line(error: Exception | str) -> str:
    """Return what a library says, in one line, without what it puts before the reason."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : (\w+) : ", "", text)
    text = re.sub(r"^Load model from .*? failed: ?", "", text)
    text = re.sub(r"\S*/onnxruntime/\S+\.(cc|h):\d+ ", "", text)  # where in onnxruntime's source
    if len(text) <= _MOST:
        return text
    return f"{text[: _MOST // 3]} ... {text[-2 * _MOST // 3 :]}"  # most say at the end what it is
