"""The metadata beside and inside a model file, written as openpilot does and read without trust.

openpilot reads ``output_slices`` from the ONNX file's ``metadata_props`` (a pickled dictionary in
base64) and the same from ``<stem>_metadata.pkl``. A pickle can run any code when it is loaded, so
foreign ones are read by an unpickler that knows nothing but ``slice``.
"""

import codecs
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlab.errors import InputError


@dataclass(frozen=True)
class Metadata:
    """What a consumer wants to know of a model before it runs it."""

    slices: dict[str, slice]
    input_shapes: dict[str, tuple[int, ...]]
    output_shapes: dict[str, tuple[int, ...]]
    checkpoint: str = ""


def read_metadata(path: str | Path) -> Metadata:
    """Read anyone's ``*_metadata.pkl`` without executing anything in it.

    Raises:
        InputError: The file is absent, is no such dictionary, or wants to import something.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no metadata file {str(path)!r}; export it beside the ONNX file")
    contents = restricted_loads(path.read_bytes(), str(path))
    if not isinstance(contents, dict):
        raise InputError(f"{str(path)!r} holds a {type(contents).__name__}, not a dictionary")
    for key in ("output_slices", "input_shapes", "output_shapes"):
        if not isinstance(contents.get(key), dict):
            raise InputError(f"{str(path)!r} has no dictionary {key!r}; openpilot reads it by name")
    return Metadata(
        slices=checked_slices(contents["output_slices"], str(path)),
        input_shapes={n: tuple(s) for n, s in contents["input_shapes"].items()},
        output_shapes={n: tuple(s) for n, s in contents["output_shapes"].items()},
        checkpoint=str(contents.get("model_checkpoint", "")),
    )


def slices_from_properties(properties: Mapping[str, str], source: str) -> dict[str, slice]:
    """Return the slices from an ONNX file's ``metadata_props``.

    Raises:
        InputError: There are none, or they are not a pickled dictionary of slices in base64.
    """
    if "output_slices" not in properties:
        raise InputError(
            f"{source} has no 'output_slices' in metadata_props; openpilot's build reads them there"
        )
    try:
        data = codecs.decode(properties["output_slices"].encode(), "base64")
    except ValueError as error:
        raise InputError(f"'output_slices' of {source} is not base64 text") from error
    return checked_slices(restricted_loads(data, f"'output_slices' of {source}"), source)


def checked_slices(found: Any, source: str) -> dict[str, slice]:
    """Return ``found`` if it maps names to slice objects.

    Raises:
        InputError: It does not; modeld fails when it indexes with anything else.
    """
    if not isinstance(found, dict):
        raise InputError(f"the output_slices of {source} are a {type(found).__name__}, not a dict")
    for name, place in found.items():
        if not isinstance(place, slice):
            raise InputError(
                f"the slice of {name!r} in {source} is the {type(place).__name__} {place!r}; "
                f"write a slice object: modeld indexes with it"
            )
    return found


def restricted_loads(data: bytes, source: str) -> Any:
    """Unpickle plain values and slices; refuse everything else before it is imported.

    Raises:
        InputError: The data is no pickle, or names any class but ``slice``.
    """

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) in (("builtins", "slice"), ("__builtin__", "slice")):
                return slice
            raise InputError(
                f"{source} wants to import {module}.{name}; metadata may hold only plain values "
                "and slices. Do not load it elsewhere; ask who made it"
            )

    try:
        return Restricted(io.BytesIO(data)).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise InputError(f"{source} is not a readable pickle ({type(error).__name__})") from error
