"""What the simulator needs from torch: the same names as :mod:`numpy_backend`, on one device."""

from typing import Any

import torch
from torch import Tensor


class TorchBackend:
    """The namespace on a device; see :mod:`numpy_backend` for what each name does."""

    abs = staticmethod(torch.abs)
    cos = staticmethod(torch.cos)
    exp = staticmethod(torch.exp)
    floor = staticmethod(torch.floor)
    sin = staticmethod(torch.sin)
    sqrt = staticmethod(torch.sqrt)
    where = staticmethod(torch.where)

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    def asarray(self, values: Any) -> Tensor:
        """Return ``values`` as a float32 tensor on the device."""
        return torch.as_tensor(values, dtype=torch.float32, device=self.device)

    def zeros(self, *shape: int) -> Tensor:
        """Return float32 zeros."""
        return torch.zeros(shape, device=self.device)

    def empty(self, *shape: int) -> Tensor:
        """Return an uninitialised float32 tensor."""
        return torch.empty(shape, device=self.device)

    def integers(self, values: Any) -> Tensor:
        """Return ``values`` as integers that can index."""
        return torch.as_tensor(values, device=self.device).long()

    def arange(self, stop: int) -> Tensor:
        """Return the integers from 0 up to ``stop``."""
        return torch.arange(stop, device=self.device)

    @staticmethod
    def minimum(x: Tensor, high: Any) -> Tensor:
        """Return the elementwise minimum; ``high`` may be a number."""
        return torch.clamp(x, max=high)

    @staticmethod
    def maximum(x: Tensor, low: Any) -> Tensor:
        """Return the elementwise maximum; ``low`` may be a number."""
        return torch.clamp(x, min=low)

    @staticmethod
    def clip(x: Tensor, low: Any, high: Any) -> Tensor:
        """Return ``x`` limited to [low, high], each a number or a tensor."""
        return torch.clamp(torch.clamp(x, min=low), max=high)

    @staticmethod
    def take_columns(table: Tensor, index: Tensor) -> Tensor:
        """Return the columns of ``table`` (R, C) at ``index`` (...): (C, ...)."""
        return table[index].movedim(-1, 0)

    @staticmethod
    def take_rows(table: Tensor, index: Tensor) -> Tensor:
        """Return rows of ``table`` (R, C) at ``index`` (N,): shape (N, C)."""
        return table[index]

    @staticmethod
    def matmul(a: Tensor, b: Tensor, out: Tensor) -> None:
        """Write the matrix product of ``a`` and ``b`` to ``out``."""
        out.copy_(a @ b)

    @staticmethod
    def percentiles(values: Tensor, counts: Tensor, shares: tuple[float, ...]) -> list[Tensor]:
        """Return percentiles of the first ``counts`` (n,) of ``values`` (n, T)."""
        index = torch.arange(values.shape[1], device=values.device)
        padded = torch.where(index < counts[:, None], values, torch.inf).sort(1).values
        found = []
        for share in shares:
            at = share * (counts - 1).float()
            low = at.long()
            high = torch.minimum(low + 1, counts - 1)
            first = padded.gather(1, low[:, None])[:, 0]
            last = padded.gather(1, high[:, None])[:, 0]
            found.append(first + (at - low) * (last - first))
        return found
