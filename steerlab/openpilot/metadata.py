"""The metadata beside and inside a model file, written as openpilot does and read without trust.

openpilot reads ``output_slices`` from the ONNX file's ``metadata_props`` (a pickled dictionary in
base64) and the same from ``<stem>_metadata.pkl``. A pickle can run any code when it is loaded, so
foreign ones are read by an unpickler that knows nothing but ``slice``.
"""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlab.errors import InputError
from steerlab.readers.pickles import LARGEST_PICKLE, read_pickle
from steerlab.readers.text import read_bytes


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
    contents = read_pickle(read_bytes(path, LARGEST_PICKLE), str(path))
    if not isinstance(contents, dict):
        raise InputError(f"{str(path)!r} holds a {type(contents).__name__}, not a dictionary")
    for key in ("output_slices", "input_shapes", "output_shapes"):
        if not isinstance(contents.get(key), dict):
            raise InputError(f"{str(path)!r} has no dictionary {key!r}; openpilot reads it by name")
    return Metadata(
        slices=checked_slices(contents["output_slices"], str(path)),
        input_shapes=_shapes(contents["input_shapes"], str(path)),
        output_shapes=_shapes(contents["output_shapes"], str(path)),
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
    return checked_slices(read_pickle(data, f"'output_slices' of {source}"), source)


def checked_slices(found: Any, source: str) -> dict[str, slice]:
    """Return ``found`` if it maps names to slice objects.

    Raises:
        InputError: It does not; modeld fails when it indexes with anything else.
    """
    if not isinstance(found, dict):
        raise InputError(f"the output_slices of {source} are a {type(found).__name__}, not a dict")
    for name, place in found.items():
        if not isinstance(name, str):
            raise InputError(f"the output_slices of {source} have the name {name!r}, not a text")
        if not isinstance(place, slice):
            raise InputError(
                f"the slice of {name!r} in {source} is the {type(place).__name__} {place!r}; "
                f"write a slice object: modeld indexes with it"
            )
        if not all(isinstance(n, int | None) for n in (place.start, place.stop, place.step)):
            raise InputError(f"the slice of {name!r} in {source} is {place!r}; give whole numbers")
    return found


def _shapes(found: dict[Any, Any], source: str) -> dict[str, tuple[int, ...]]:
    for name, shape in found.items():
        whole = isinstance(shape, list | tuple) and all(type(n) is int for n in shape)
        if not (isinstance(name, str) and whole):
            raise InputError(f"the shape of {name!r} in {source} is {str(shape)[:100]!r}")
    return {name: tuple(shape) for name, shape in found.items()}
