"""A network in a file, ONNX or a tinygrad pickle with its metadata, that any process can open."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from steerlab.errors import InputError
from steerlab.openpilot.engines import Network, load_network
from steerlab.openpilot.metadata import read_metadata
from steerlab.openpilot.onnx_file import check_file
from steerlab.openpilot.tinygrad import TinygradEngine, holds_jit


@dataclass(frozen=True)
class NetworkFile:
    """Where a network is and what it takes to run it.

    Attributes:
        path: ``*.onnx`` with slices in its ``metadata_props``, or ``*.pkl``, a captured TinyJit.
        metadata: Metadata of a pickle; '' is ``<name>_metadata.pkl`` beside ``<name>_tinygrad.pkl``.
        trust_pickle: You know where the pickle comes from: loading it executes what is in it.
        tinygrad_path: Folder of the tinygrad that made the pickle; '' takes the installed one.
    """

    path: str
    metadata: str = ""
    trust_pickle: bool = False
    tinygrad_path: str = ""

    @property
    def is_pickle(self) -> bool:
        """Whether it is a tinygrad pickle."""
        return Path(self.path).suffix == ".pkl"

    def open(self) -> Network:
        """Return the network.

        A pickle runs in a process of its own, the same one for every call here.

        Raises:
            InputError: The file is absent or holds no network; a pickle is not trusted, or its
                metadata are absent or those of another network.
        """
        if not self.is_pickle:
            return load_network(self.path)
        path = check_file(self.path, "tinygrad pickle", "check the path")
        if not self.trust_pickle:
            raise InputError(
                f"loading {self.path!r} executes what is in it; set trust_pickle=true if you made it "
                "or know who did"
            )
        if not holds_jit(path):
            raise InputError(
                f"{self.path!r} holds no captured TinyJit; give the *_tinygrad.pkl of a network"
            )
        return _opened(self, path.stat().st_mtime_ns)

    def metadata_path(self) -> Path:
        """Return where the metadata of a pickle are."""
        path = Path(self.path)
        stem = path.stem.removesuffix("_tinygrad")
        return Path(self.metadata) if self.metadata else path.with_name(f"{stem}_metadata.pkl")


@lru_cache(maxsize=4)
def _opened(file: NetworkFile, changed: int) -> Network:
    """Return the network of a pickle, last changed at ``changed``, checked against its metadata."""
    metadata = read_metadata(file.metadata_path())
    engine = TinygradEngine(
        file.path, trust_pickle=file.trust_pickle, tinygrad_path=file.tinygrad_path or None
    )
    try:
        _check(file, engine, metadata.input_shapes, metadata.slices)
    except BaseException:
        engine.close()
        raise
    return Network(engine, metadata.slices, metadata.input_shapes)


def _check(
    file: NetworkFile,
    engine: TinygradEngine,
    shapes: Mapping[str, tuple[int, ...]],
    slices: Mapping[str, slice],
) -> None:
    """Run the network once on zeros, in the shapes of the metadata."""
    expected = engine.info["inputs"]
    where = f"the metadata {str(file.metadata_path())!r}"
    if set(expected) != set(shapes):
        raise InputError(
            f"{where} are of another network: their inputs are {', '.join(sorted(shapes))}, "
            f"{file.path!r} takes {', '.join(sorted(expected))}"
        )
    zeros = {name: np.zeros(shape, expected[name][0]) for name, shape in shapes.items()}
    length = engine.run(zeros)["outputs"].shape[-1]
    for name, place in slices.items():
        last = max(abs(bound) for bound in (place.start or 0, place.stop or 0))
        if last > length:
            raise InputError(
                f"{where} are of another network: {name} ends at {last}, {file.path!r} returns "
                f"{length} values"
            )
