"""How much memory a network needs while it computes."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class _Meter(TorchDispatchMode):
    """Adds up the storages that operations make and that are still alive."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen = known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: Any) -> None:
        key = storage.data_ptr()
        if key in self.seen:
            return
        self.seen.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def peak_megabytes(model: nn.Module, inputs: Sequence[Tensor]) -> float:
    """Return the largest sum of live activations of one pass of ``model``, without its weights."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    with torch.no_grad(), _Meter(known) as meter:
        model(*inputs)
    return 1e-6 * meter.peak
