"""The metadata beside and inside a model file, read without trust.

openpilot reads ``output_slices`` from the ONNX file's ``metadata_props`` (a pickled dictionary in
base64) and the same from ``<stem>_metadata.pkl``. A pickle can run any code when it is loaded, so
foreign ones are read by an unpickler that knows nothing but ``slice``, and everything in them is
checked before anyone relies on it.
"""

import codecs
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlab.errors import InputError
from steerlab.openpilot.onnx_file import check_file
from steerlab.readers.pickles import LARGEST_PICKLE, read_pickle
from steerlab.readers.text import read_bytes

#: Key of the checksum in the files that steerlab writes; those of other programs have none.
CHECKSUM = "steerlab_sha256"


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
        InputError: The file is absent or a Git LFS pointer, is no such dictionary, holds names,
            slices or shapes that openpilot cannot use, or wants to import something.
    """
    path = check_file(path, "metadata file", "export it beside the ONNX file")
    source = repr(str(path))
    contents = read_pickle(read_bytes(path, LARGEST_PICKLE), source)
    if not isinstance(contents, dict):
        raise InputError(
            f"{source} holds a {type(contents).__name__}, not a dictionary; export anew"
        )
    for key in ("output_slices", "input_shapes", "output_shapes"):
        if not isinstance(contents.get(key), dict):
            raise InputError(f"{source} has no dictionary {key!r}; openpilot reads it by name")
    checkpoint = contents.get("model_checkpoint", "")
    found = Metadata(
        slices=checked_slices(contents["output_slices"], source),
        input_shapes=_checked_shapes(contents["input_shapes"], f"input_shapes of {source}"),
        output_shapes=_checked_shapes(contents["output_shapes"], f"output_shapes of {source}"),
        checkpoint=checkpoint if isinstance(checkpoint, str) else "",
    )
    if CHECKSUM in contents and contents[CHECKSUM] != checksum_of(found):
        raise InputError(f"{source} is damaged: it does not have its checksum; export it again")
    return found


def checksum_of(metadata: Metadata) -> str:
    """Return the SHA-256 over everything in the metadata."""
    slices = {name: (s.start, s.stop, s.step) for name, s in metadata.slices.items()}
    parts = (slices, metadata.input_shapes, metadata.output_shapes, metadata.checkpoint)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


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
        raise InputError(
            f"'output_slices' of {source} is not base64 text; write the pickled slices in base64"
        ) from error
    return checked_slices(read_pickle(data, f"'output_slices' of {source}"), source)


def checked_slices(found: Any, source: str) -> dict[str, slice]:
    """Return ``found`` if it maps names to slices that pick consecutive values.

    Negative bounds, which count from the end, are openpilot's own and allowed.

    Raises:
        InputError: It does not; modeld fails when it indexes with anything else.
    """
    if not isinstance(found, dict):
        raise InputError(
            f"the output_slices of {source} are a {type(found).__name__}; write a dict of slices"
        )
    for name, place in found.items():
        _check_name(name, f"output_slices of {source}")
        if not isinstance(place, slice):
            raise InputError(
                f"the slice of {name!r} in {source} is the {type(place).__name__} {_shown(place)}; "
                "write a slice object: modeld indexes with it"
            )
        bounds = [place.start, place.stop, place.step]
        if not all(b is None or _is_whole(b) for b in bounds) or place.step not in (None, 1):
            raise InputError(
                f"the slice of {name!r} in {source} is {_shown(place)}; write whole numbers and "
                "step 1: modeld indexes with it"
            )
        if not all(isinstance(n, int | None) for n in (place.start, place.stop, place.step)):
            raise InputError(f"the slice of {name!r} in {source} is {place!r}; give whole numbers")
    return found


def _checked_shapes(found: dict[Any, Any], source: str) -> dict[str, tuple[int, ...]]:
    """Return names and shapes; those of free axes are 0, as openpilot's script writes them."""
    shapes = {}
    for name, shape in found.items():
        _check_name(name, source)
        if not isinstance(shape, tuple | list) or not all(_is_whole(d) and d >= 0 for d in shape):
            raise InputError(
                f"the shape of {name!r} in {source} is {_shown(shape)}; write a tuple of whole "
                "numbers, as in the graph"
            )
        shapes[name] = tuple(shape)
    return shapes


def _check_name(name: Any, source: str) -> None:
    if not isinstance(name, str):
        raise InputError(
            f"{source} has the key {_shown(name)}, a {type(name).__name__}; openpilot looks heads "
            "and inputs up by text, so write their names"
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 40


def _shown(value: Any, inside: bool = False) -> str:
    """Return a value for a message: short, whatever a stranger has put into it."""
    if value is None or isinstance(value, bool | float) or _is_whole(value):
        return repr(value)
    if isinstance(value, str | bytes):
        return ascii(value[:40])
    if isinstance(value, slice) and not inside:
        return f"slice({', '.join(_shown(v, True) for v in (value.start, value.stop, value.step))})"
    if isinstance(value, tuple | list) and not inside:
        some = ", ".join(_shown(v, True) for v in value[:6]) + ", ..." * (len(value) > 6)
        return f"({some})" if isinstance(value, tuple) else f"[{some}]"
    return f"<{type(value).__name__}>"
