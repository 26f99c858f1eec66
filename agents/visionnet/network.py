"""The vision network: one backbone for both cameras, 512 features, and openpilot's heads on them.

Both image pairs go through the same convolutions as one batch. Blocks are depthwise convolutions
between pointwise ones, as in ConvNeXt (Liu et al. 2022) and MobileNet (Howard et al. 2017), since these
train on a processor and tinygrad has all of their operations. The last map is flattened and not
averaged: the heads answer where a line is in the picture. All heads read ``hidden_state`` only,
so that the features a policy gets hold whatever the heads say.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steerlab.errors import InputError, unknown_name
from steerlab.openpilot.contracts import FEATURES, Contract, contract
from steerlab.openpilot.outputs import pack

VISION = "driving_vision"
CHANNELS = 12  # of an image pair
_MIDDLE, _SPREAD = 128.0, 64.0  # of pixel values
_ANY = 1e4  # no limit to a mean or a logit, in the same units
_LOG_STD = 4.0  # a head's spread is within e^-4 and e^4 times that of the labels
_REDUCTION = 32  # pixels of an image plane for one place of the last map
_PLACES = (128 // _REDUCTION) * (256 // _REDUCTION)


@dataclass(frozen=True)
class VisionSize:
    """Widths of the network."""

    widths: tuple[int, int, int, int]  # channels of the four stages, at 1/4, 1/8, 1/16 and 1/32
    depths: tuple[int, int, int, int]  # blocks of each stage
    neck: int  # channels of the map that is flattened
    trunk: int  # units of the layer before the heads


SIZES = {
    "tiny": VisionSize((24, 48, 96, 160), (1, 1, 2, 1), 64, 256),
    "small": VisionSize((48, 96, 192, 320), (1, 2, 6, 2), 96, 512),
    "base": VisionSize((80, 160, 320, 512), (2, 3, 9, 3), 128, 1024),
}


class VisionNet(nn.Module):
    """Takes the inputs of a contract's vision network, returns its flat output.

    Args:
        size: ``tiny`` (trains on a processor), ``small`` or ``base``.
        contract_: The contract, or its name; it must have a vision network of its own.
        lead: Width of the head ``lead`` where the contract accepts several; None takes the usual one.

    Raises:
        InputError: The size is unknown, or the contract has no vision network or no such width.
    """

    mean: Tensor
    scale: Tensor
    limit: Tensor

    def __init__(
        self,
        size: str = "tiny",
        contract_: Contract | str = "openpilot-0.10.0",
        lead: int | None = None,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise unknown_name("size of a vision network", size, SIZES)
        self.contract = contract(contract_) if isinstance(contract_, str) else contract_
        if VISION not in self.contract.model_names:
            raise InputError(
                f"{self.contract.id} has no vision network of its own; train one for a contract with "
                "two networks, which export-policy then joins with a policy"
            )
        self.size, sizes = size, SIZES[size]
        self.model = self.contract.model(VISION, heads={"lead": lead} if lead else None)
        self.shapes = {
            name: shape for head in self.model.heads.values() for name, shape in head.tensors.items()
            if name != "hidden_state"
        }  # fmt: skip
        self.backbone = _backbone(sizes)
        self.neck = nn.Sequential(nn.Conv2d(sizes.widths[-1], sizes.neck, 1), nn.ReLU())
        self.join = nn.Linear(2 * _PLACES * sizes.neck, FEATURES)
        self.norm = nn.LayerNorm(FEATURES)
        total = sum(math.prod(shape) for shape in self.shapes.values())
        last = nn.Linear(sizes.trunk, total)
        with torch.no_grad():
            last.weight *= 0.1  # to begin with the units, more or less
        self.heads = nn.Sequential(nn.Linear(FEATURES, sizes.trunk), nn.ReLU(), last)
        self.register_buffer("mean", torch.zeros(total))
        self.register_buffer("scale", torch.ones(total))
        self.register_buffer("limit", torch.full((total,), _ANY), persistent=False)
        for name, limits in self._split(self.limit).items():
            limits.fill_(_LOG_STD if name.endswith("_log_std") else _ANY)
        # Twice as fast on a processor.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def set_units(self, mean: Mapping[str, Tensor], scale: Mapping[str, Tensor]) -> None:
        """Let the heads speak in units of the labels: untrained, they say ``mean`` and ``scale``.

        Args:
            mean: Mean of a tensor of a Gaussian head, or logits, by name; each of the tensor's shape.
            scale: Standard deviation of the same; positive.

        Raises:
            InputError: A name or a shape is none of the network's.
        """
        means, scales = self._split(self.mean), self._split(self.scale)
        for name, values in [*mean.items(), *scale.items()]:
            if name not in self.shapes or tuple(values.shape) != self.shapes[name]:
                raise InputError(
                    f"units of {name!r} have shape {tuple(values.shape)}; {VISION} has {self.shapes}"
                )
        for name, values in mean.items():
            means[name].copy_(values)
        for name, values in scale.items():
            scales[name].copy_(values)
            if (spread := f"{name}_log_std") in means:
                means[spread].copy_(values.log())

    @property
    def units(self) -> dict[str, Tensor]:
        """Return the spread of the labels for each tensor of the heads, by name."""
        return self._split(self.scale)

    @property
    def means(self) -> dict[str, Tensor]:
        """Return what each tensor of the heads says before it is trained, by name."""
        return self._split(self.mean)

    def features(self, img: Tensor, big_img: Tensor) -> Tensor:
        """Return ``hidden_state`` (B, 512) of image pairs; see :meth:`forward`."""
        pairs = torch.cat([img, big_img]).contiguous(memory_format=torch.channels_last)
        pairs = (pairs.float() - _MIDDLE) / _SPREAD
        seen = self.neck(self.backbone(pairs)).flatten(1)
        narrow, wide = seen.chunk(2)
        return self.norm(self.join(torch.cat([narrow, wide], dim=1)))

    def tensors(self, img: Tensor, big_img: Tensor) -> dict[str, Tensor]:
        """Return the named tensors of all heads, each (B, *shape); see :meth:`forward`."""
        return self.read(self.features(img, big_img))

    def read(self, hidden: Tensor) -> dict[str, Tensor]:
        """Return the named tensors of all heads for features (B, 512), ``hidden_state`` among them."""
        said = self.heads(hidden).clamp(-self.limit, self.limit) * self.scale + self.mean
        return {"hidden_state": hidden, **self._split(said)}

    def forward(self, img: Tensor, big_img: Tensor) -> Tensor:
        """Return the flat output (B, N) in the order of the contract, float32.

        Args:
            img: Narrow camera, (B, 12, 128, 256), uint8 or float in 0..255, the frame of 200 ms ago
                before that of now; see :mod:`steerlab.openpilot.images`.
            big_img: Wide camera, likewise.
        """
        return pack(self.model, self.tensors(img, big_img))

    def _split(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of a vector (..., total) by name."""
        found, start = {}, 0
        for name, shape in self.shapes.items():
            stop = start + math.prod(shape)
            found[name] = flat[..., start:stop].view(*flat.shape[:-1], *shape)
            start = stop
        return found


class _Block(nn.Module):
    """Mixes places, then channels, and adds that to what comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.places = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.channels = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1), nn.ReLU(inplace=True), nn.Conv2d(2 * width, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.channels(self.norm(self.places(x)))


def _backbone(size: VisionSize) -> nn.Sequential:
    """Return the stages; each begins with a convolution that leaves no pixel out or takes it twice."""
    layers: list[nn.Module] = []
    before, step = CHANNELS, 4
    for width, depth in zip(size.widths, size.depths, strict=True):
        layers += [nn.Conv2d(before, width, step, step, bias=False), nn.BatchNorm2d(width)]
        layers += [_Block(width) for _ in range(depth)]
        before, step = width, 2
    return nn.Sequential(*layers, nn.BatchNorm2d(before), nn.ReLU())
