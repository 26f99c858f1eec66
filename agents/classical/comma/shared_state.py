"""What the objects of a controller share, as fingerprints: loaded by ``host.py``, by path.

Controllers of several routes may run side by side in one process only if nothing that one of them
changes can be seen by another. So a fingerprint is taken of everything that the modules of the
controller's checkout hold: module variables, attributes of classes, defaults and closures of
functions, and what those lead to. A fingerprint that changes names the state that is shared.

What a library keeps to itself is not looked at, and neither are objects that only C knows.
"""

import builtins
import functools
import itertools
import logging
import os
import random
import sys
import sysconfig
import types
import warnings
from collections import deque
from hashlib import blake2b
from typing import Any

import numpy as np

_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented), range)
_CODE = (types.CodeType, types.GetSetDescriptorType, types.MemberDescriptorType)
_THERE = b""  # in the place of a fingerprint: a module or class, whose variables have their own
_LIMIT = 2_000_000  # objects that are looked at in one snapshot
_INSTALLED = tuple(
    sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


class Unwatchable(Exception):
    """The state cannot be separated, or is too large; so it must be taken as shared."""


def snapshot(known: frozenset[str]) -> dict[str, bytes]:
    """Return a fingerprint of each variable of the controller's own modules, by dotted name.

    Args:
        known: Modules that were there before the controller was loaded.

    Raises:
        Unwatchable: See there.
    """
    own = {
        name: module
        for name, module in list(sys.modules.items())
        if name not in known and _is_own(name, module)
    }
    own = {name: module for name, module in own.items() if module is not None}
    walker = _Walker(own)
    prints = dict.fromkeys(own, _THERE) | {"os.environ": walker.digest(dict(os.environ))}
    prints["builtins"] = walker.digest(sorted(vars(builtins).keys() - {"_"}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a look at an object may call what is deprecated
        for name, module in own.items():
            for key, value in list(vars(module).items()):
                if key.startswith("__") or isinstance(value, types.ModuleType):
                    continue
                if isinstance(value, type) and value.__module__ in own:
                    if value.__module__ == name:
                        prints |= walker.class_digests(f"{name}.{key}", value)
                    continue
                prints[f"{name}.{key}"] = walker.digest(value)
    return prints


def difference(before: dict[str, bytes], after: dict[str, bytes]) -> str | None:
    """Return the name of a variable that changed, was added or went, or None.

    Modules and classes that came in between are left out: they are compared from then on.
    """
    for name in sorted(before.keys() | after.keys()):
        came = name not in before and name.rpartition(".")[0] not in before
        if before.get(name) != after.get(name) != _THERE and not came:
            return name
    return None


def _is_own(name: str, module: Any) -> bool:
    package = name.partition(".")[0]
    if package == "controllers":
        return True
    path = getattr(module, "__file__", None)
    if not path or package == "steerlab" or hasattr(module, "__steerlab__"):
        return False
    return not ("site-packages" in path or "dist-packages" in path or path.startswith(_INSTALLED))


class _Walker:
    """Feeds what an object holds into a hash, each object once."""

    def __init__(self, own: dict[str, Any]) -> None:
        self.own = own
        self.left = _LIMIT
        # The global generators are watched by their states.
        self.apart = [random.seed.__self__, np.random.mtrand._rand]  # type: ignore[attr-defined]
        if "torch" in sys.modules:
            self.apart.append(sys.modules["torch"].default_generator)

    def digest(self, value: Any) -> bytes:
        """Return the fingerprint of one variable."""
        self.hash = blake2b(digest_size=16)
        self.seen: dict[int, tuple[int, Any]] = {}  # the object too: its id must stay its own
        try:
            self.walk(value)
        except Unwatchable:
            raise
        except Exception as error:  # objects of strangers may raise anything when looked at
            raise Unwatchable(f"an object that raises {type(error).__name__}") from error
        return self.hash.digest()

    def class_digests(self, name: str, cls: type) -> dict[str, bytes]:
        """Return a fingerprint of each attribute of a class."""
        skipped = ("__dict__", "__weakref__", "__doc__", "__module__", "_abc_impl")
        return {name: _THERE} | {
            f"{name}.{key}": self.digest(value)
            for key, value in list(vars(cls).items())
            if key not in skipped
        }

    def text(self, *parts: object) -> None:
        self.hash.update("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"))

    def walk(self, value: Any) -> None:
        """Feed one object into the hash."""
        self.left -= 1
        if self.left < 0:
            raise Unwatchable(f"more than {_LIMIT:,} objects")
        if isinstance(value, _ATOMS):
            self.text(type(value).__name__, repr(value))
            return
        if any(value is one for one in self.apart):
            self.text("global generator")
            return
        if id(value) in self.seen:
            self.text("again", self.seen[id(value)][0])
            return
        self.seen[id(value)] = (len(self.seen), value)
        for kind, look in _LOOKS:
            if isinstance(value, kind):
                look(self, value)
                return
        self.instance(value)

    def each(self, name: str, *values: Any) -> None:
        """Feed a name and several objects."""
        self.text(name, len(values))
        for value in values:
            self.walk(value)

    def module(self, value: types.ModuleType) -> None:
        self.text("module", value.__name__)

    def cls(self, value: type) -> None:
        self.text("class", value.__module__, value.__qualname__)
        if value.__module__ in self.own:
            for key, inner in list(vars(value).items()):
                if key not in ("__dict__", "__weakref__", "__doc__", "_abc_impl"):
                    self.each(key, inner)

    def function(self, value: types.FunctionType) -> None:
        self.text("function", value.__module__, value.__qualname__)
        if value.__module__ not in self.own:
            return
        self.text(hash(value.__code__))
        self.each("defaults", value.__defaults__, value.__kwdefaults__, vars(value))
        for cell in value.__closure__ or ():
            try:
                self.walk(cell.cell_contents)
            except ValueError:  # nothing is in it yet
                self.text("empty")

    def bound(self, value: Any) -> None:
        self.text("bound", value.__name__)
        if not isinstance(value.__self__, types.ModuleType):
            self.walk(value.__self__)
        if isinstance(value, types.MethodType):
            self.walk(value.__func__)

    def array(self, value: Any) -> None:
        self.text("array", value.dtype, value.shape)
        if value.dtype.hasobject:
            self.each("objects", *value.ravel().tolist())
        else:
            self.hash.update(np.ascontiguousarray(value).tobytes())

    def unordered(self, value: Any) -> None:
        self.text(type(value).__qualname__, len(value))
        inner = []
        for item in value:  # in no order
            part = _Walker(self.own)
            part.left = self.left
            inner.append(part.digest(item))
            self.left = part.left
        self.hash.update(b"".join(sorted(inner)))

    def mapping(self, value: Any) -> None:
        self.text(type(value).__qualname__, len(value))
        for key, inner in list(value.items()):
            self.walk(key)
            self.walk(inner)
        self.attributes(value)

    def sequence(self, value: Any) -> None:
        self.each(type(value).__qualname__, *value)
        self.attributes(value)

    def cache(self, value: Any) -> None:
        self.text("cache", value.cache_info())
        self.walk(value.__wrapped__)

    def generator(self, value: Any) -> None:
        frame = value.gi_frame
        self.text("generator", frame and frame.f_lasti)
        self.each("locals", *(dict(frame.f_locals).items() if frame else ()))

    def descriptor(self, value: Any) -> None:
        names = ("__func__", "fget", "fset", "fdel", "func")
        self.each(type(value).__name__, *(getattr(value, name, None) for name in names))

    def counter(self, value: Any) -> None:
        self.text("count", repr(value))

    def code(self, value: Any) -> None:
        self.text(type(value).__name__, getattr(value, "__name__", ""))

    def tensor(self, value: Any) -> None:
        self.text("tensor", value.dtype, tuple(value.shape), value.device)
        flat = value.detach().cpu().contiguous().flatten()
        self.hash.update(flat.view(sys.modules["torch"].uint8).numpy().tobytes())

    def attributes(self, value: Any) -> None:
        """Feed what an object holds in ``__dict__`` and slots."""
        self.each("dict", *vars(value).items() if hasattr(value, "__dict__") else ())
        for cls in type(value).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else tuple(slots):
                if name not in ("__dict__", "__weakref__"):
                    self.each(name, getattr(value, name, None))

    def instance(self, value: Any) -> None:
        """Feed an object of any other type: its attributes, and what it would be pickled as."""
        cls = type(value)
        self.text("object", cls.__module__, cls.__qualname__)
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            self.tensor(value)
            return
        if torch is not None and isinstance(value, torch.Generator):
            self.tensor(value.get_state())
            return
        self.attributes(value)
        plain = (cls.__reduce__, cls.__reduce_ex__) == (object.__reduce__, object.__reduce_ex__)
        if plain and hasattr(value, "__dict__"):
            return
        try:
            reduced = value.__reduce_ex__(4)
        except Exception as error:  # an object that only C knows
            if cls.__module__ in ("itertools", "builtins"):
                raise Unwatchable(f"an object of type {cls.__name__}") from error
            self.text("opaque", id(value))
            return
        if isinstance(reduced, str):
            self.text(reduced)
            return
        self.each("reduced", *reduced[1:3], *(list(items) for items in reduced[3:5] if items))


_LOOKS: tuple[tuple[Any, Any], ...] = (
    (types.ModuleType, _Walker.module),
    (type, _Walker.cls),
    (types.FunctionType, _Walker.function),
    ((types.MethodType, types.BuiltinMethodType), _Walker.bound),
    (np.ndarray, _Walker.array),
    (np.generic, lambda walker, value: walker.array(np.asarray(value))),
    ((set, frozenset), _Walker.unordered),
    (dict, _Walker.mapping),
    ((list, tuple, deque), _Walker.sequence),
    (bytearray, lambda walker, value: walker.text("bytes", bytes(value))),
    (functools._lru_cache_wrapper, _Walker.cache),
    (types.GeneratorType, _Walker.generator),
    ((staticmethod, classmethod, property, functools.cached_property), _Walker.descriptor),
    (itertools.count, _Walker.counter),
    (logging.Logger, lambda walker, value: walker.text("logger", value.name)),
    (_CODE, _Walker.code),
)
