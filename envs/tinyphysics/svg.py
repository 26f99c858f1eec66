"""Plots as SVG text: lines and bars on two axes, without a plotting library.

matplotlib takes longer to load and to draw a report than a process needs for ten routes. Lengths are
pixels of a page.
"""

import base64
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from steerlab.types import Floats

_SMALL, _TEXT = 11, 14  # font sizes: of a legend, of everything else
_WIDTH_OF_A_LETTER = 0.56  # of the font size, on average
_INK, _FAINT = "#222222", "#dddddd"


@dataclass(frozen=True)
class Axis:
    """What a side of a panel measures.

    Attributes:
        low: Value at its left or lower end.
        high: Value at its right or upper end, above ``low``.
        label: What it is, with its unit.
        log: Equal distances are equal factors.
        numbers: Write the values at its ticks.
    """

    low: float
    high: float
    label: str = ""
    log: bool = False
    numbers: bool = True

    @classmethod
    def around(cls, values: Sequence[Floats], label: str) -> "Axis":
        """Return an axis with some room around finite values."""
        low = min(float(v.min()) for v in values)
        high = max(float(v.max()) for v in values)
        room = 0.05 * (high - low) or 0.5
        return cls(low - room, high + room, label)

    def place(self, values: Floats) -> Floats:
        """Return where values lie: 0 at the low end, 1 at the high one."""
        if self.log:
            return np.log(values / self.low) / math.log(self.high / self.low)
        return (np.asarray(values) - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return three to eight round values; on a logarithmic axis powers of ten, or 1, 2 and 5 times them."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            factors = (1, 2, 5) if self.high < 200 * self.low else (1,)
            found = [f * 10.0**power for power in range(first, last + 1) for f in factors]
        else:
            step = _round_step((self.high - self.low) / 7.5)
            first, last = math.ceil(self.low / step), math.floor(self.high / step)
            found = [step * i for i in range(first, last + 1)]
        return [v for v in found if self.low <= v <= self.high]


def _round_step(step: float) -> float:
    """Return the least of 1, 2, 5 times a power of ten that is not below ``step``."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(f * power for f in (1, 2, 5, 10) if f * power >= step * (1 - 1e-9))


@dataclass
class Panel:
    """Two axes with what is drawn between them.

    Attributes:
        left: Distance of the panel from the left of its picture.
        top: Distance from the top.
        width: Width between the ends of ``x``.
        height: Height between the ends of ``y``.
        x: Horizontal axis.
        y: Vertical axis.
    """

    left: float
    top: float
    width: float
    height: float
    x: Axis
    y: Axis
    _drawn: list[str] = field(default_factory=list)
    _legend: list[tuple[str, str, bool]] = field(default_factory=list)

    def band(self, low: float, high: float) -> None:
        """Shade from ``low`` to ``high`` of the horizontal axis."""
        a, b = self._across(np.array([low, high]))
        self._drawn.append(_box(a, self.top, b - a, self.height, "#eeeeee"))

    def line(self, x: Floats, y: Floats, color: str, name: str, dashed: bool = False) -> None:
        """Draw a line through points (T,), and name it in the legend."""
        points = " ".join(
            f"{a:.1f},{b:.1f}" for a, b in zip(self._across(x), self._up(y), strict=True)
        )
        dash = ' stroke-dasharray="5 3" opacity="0.75"' if dashed else ""
        self._drawn.append(
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.3"{dash}/>'
        )
        self._legend.append((name, color, dashed))

    def bars(self, edges: Floats, counts: Floats, color: str, name: str) -> None:
        """Draw a histogram: counts (N,) between edges (N + 1,)."""
        across, up = self._across(edges), self._up(counts)
        for a, b, top, count in zip(across[:-1], across[1:], up, counts, strict=True):
            if count:
                height = self.top + self.height - top
                self._drawn.append(_box(a, top, b - a, height, color, 0.6))
        self._legend.append((name, color, False))

    def svg(self) -> str:
        """Return the panel as SVG elements."""
        return "".join([*self._grid(), *self._drawn, *self._frame(), *self._names()])

    def _across(self, values: Floats) -> Floats:
        return self.left + self.width * self.x.place(values)

    def _up(self, values: Floats) -> Floats:
        return self.top + self.height * (1 - self.y.place(values))

    def _grid(self) -> list[str]:
        right, bottom = self.left + self.width, self.top + self.height
        across = self._across(np.array(self.x.ticks()))
        up = self._up(np.array(self.y.ticks()))
        return [_stroke(a, self.top, a, bottom, _FAINT) for a in across] + [
            _stroke(self.left, b, right, b, _FAINT) for b in up
        ]

    def _frame(self) -> list[str]:
        bottom, middle = self.top + self.height, self.top + self.height / 2
        size = f'width="{self.width}" height="{self.height}"'
        frame = f'fill="none" stroke="{_INK}" stroke-width="0.8"'
        parts = [f'<rect x="{self.left}" y="{self.top}" {size} {frame}/>']
        if self.x.numbers:
            ticks = self.x.ticks()
            for tick, a in zip(ticks, self._across(np.array(ticks)), strict=True):
                parts.append(text(a, bottom + 17, f"{tick:g}", "middle"))
            parts.append(text(self.left + self.width / 2, bottom + 37, self.x.label, "middle"))
        ticks = self.y.ticks()
        for tick, b in zip(ticks, self._up(np.array(ticks)), strict=True):
            parts.append(text(self.left - 6, b + 5, f"{tick:.6g}", "end"))
        turned = f' transform="rotate(-90 18 {middle:.1f})"'
        return [*parts, text(18, middle, self.y.label, "middle", more=turned)]

    def _names(self) -> list[str]:
        """Return the legend, in the upper right corner."""
        longest = max((len(name) for name, _, _ in self._legend), default=0)
        width = 34 + longest * _SMALL * _WIDTH_OF_A_LETTER
        left, height = self.left + self.width - width - 6, 16 * len(self._legend) + 4
        parts = [_box(left, self.top + 5, width, height, "#ffffff", 0.75)]
        for i, (name, color, dashed) in enumerate(self._legend):
            y = self.top + 15 + 16 * i
            parts.append(_stroke(left + 5, y, left + 25, y, color, 3, dashed))
            parts.append(text(left + 30, y + 4, name, size=_SMALL))
        return parts


def image(width: float, height: float, parts: Sequence[str], alternative: str) -> str:
    """Return an ``img`` element that holds the picture itself.

    Args:
        width: Width of the picture.
        height: Height of the picture.
        parts: SVG elements.
        alternative: What the picture shows, for who cannot see it.
    """
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" fill="{_INK}">{"".join(parts)}</svg>'
    )
    data = base64.b64encode(drawing.encode()).decode()
    return f'<img alt="{html.escape(alternative)}" src="data:image/svg+xml;base64,{data}">'


def text(
    x: float, y: float, words: str, anchor: str = "start", size: int = _TEXT, more: str = ""
) -> str:
    """Return words that start, end or have their middle at ``x``."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{more}>'
        f"{html.escape(words)}</text>"
    )


def _box(x: float, y: float, width: float, height: float, color: str, opacity: float = 1) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{color}" opacity="{opacity}"/>'
    )


def _stroke(
    x1: float, y1: float, x2: float, y2: float, color: str, width: float = 1, dashed: bool = False
) -> str:
    dash = ' stroke-dasharray="5 3"' if dashed else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{color}" stroke-width="{width}"{dash}/>'
    )
