"""Pickles of plain values, read without importing or executing anything."""

import io
import pickle
import pickletools
from typing import Any

from steerlab.errors import InputError

LARGEST_PICKLE = 2**20  # bytes
#: What a pickle of plain values and slices is made of; the rest of the language is refused.
_OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "MEMOIZE", "PUT", "BINPUT",
    "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT",
    "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_TUPLE",
    "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "GLOBAL",
    "STACK_GLOBAL", "REDUCE",
}  # fmt: skip


def read_pickle(data: bytes, source: str) -> Any:
    """Unpickle plain values and slices; refuse everything else before it is imported.

    Args:
        data: The pickle.
        source: What the message says of where it is from.

    Raises:
        InputError: The data is no pickle, too large, or names any class but ``slice``.
    """
    if len(data) > LARGEST_PICKLE:
        raise InputError(f"{source} has more than {LARGEST_PICKLE:,} bytes")

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) in (("builtins", "slice"), ("__builtin__", "slice")):
                return slice
            raise InputError(
                f"{source} wants to import {module}.{name}; metadata may hold only plain values "
                "and slices. Do not load it elsewhere; ask who made it"
            )

    try:
        _check_opcodes(data)
        return Restricted(io.BytesIO(data)).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise InputError(
            f"{source} is not a readable pickle ({type(error).__name__}); export it again"
        ) from error


def _check_opcodes(data: bytes) -> None:
    """Refuse what makes a small pickle large: the memo is an array as long as its largest index."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name not in _OPCODES:
            raise ValueError(f"{opcode.name} is no plain value")
        if opcode.name.endswith("PUT") and int(argument or 0) > count:
            raise ValueError("the memo has gaps")
