"""What the simulator's functions need to run on single numbers: the namespace that numba compiles.

The names are those of :mod:`numpy_backend`, and like there the functions that take time work in
single precision. The sine is a polynomial, which the compiler can turn into vector instructions.
"""

import math
from typing import Any

import numpy as np
from numba.extending import register_jitable

#: Marks a function for numba; without a call in them, loops can become vector code.
inlined = register_jitable(forceinline=True)

# Typed constants: numba takes a Python number for double precision, and all that it meets too.
_HALF, _ONE, _TWO = np.float32(0.5), np.float32(1.0), np.float32(2.0)
_INVERSE_PI, _HALF_PI = np.float32(1 / math.pi), np.float32(math.pi / 2)
_PI_HIGH, _PI_LOW = np.float32(3.140625), np.float32(math.pi - 3.140625)  # multiples are exact
#: Taylor coefficients of the sine: of x^3, x^5 and so on.
_C3, _C5, _C7, _C9, _C11 = (np.float32((-1) ** k / math.factorial(2 * k + 1)) for k in range(1, 6))


@inlined
def abs(x: Any) -> Any:
    """Return the absolute value."""
    return math.fabs(x)


@inlined
def exp(x: Any) -> Any:
    """Return e to the power of ``x``."""
    return math.exp(np.float32(x))


@inlined
def floor(x: Any) -> Any:
    """Return the largest whole number up to ``x``, as a float."""
    return np.floor(x)


@inlined
def sqrt(x: Any) -> Any:
    """Return the square root."""
    return math.sqrt(np.float32(x))


@inlined
def sin(x: Any) -> Any:
    """Return the sine, to 1e-7 for angles of some turns."""
    x = np.float32(x)
    turns = np.floor(x * _INVERSE_PI + _HALF)
    r = (x - turns * _PI_HIGH) - turns * _PI_LOW
    sign = _ONE - _TWO * (turns - _TWO * np.floor(turns * _HALF))
    q = r * r
    return sign * (r + r * q * (_C3 + q * (_C5 + q * (_C7 + q * (_C9 + q * _C11)))))


@inlined
def cos(x: Any) -> Any:
    """Return the cosine."""
    return sin(np.float32(x) + _HALF_PI)


@inlined
def minimum(x: Any, y: Any) -> Any:
    """Return the smaller of two numbers."""
    return min(x, y)


@inlined
def maximum(x: Any, y: Any) -> Any:
    """Return the larger of two numbers."""
    return max(x, y)


@inlined
def clip(x: Any, low: Any, high: Any) -> Any:
    """Return ``x`` limited to [low, high]."""
    return minimum(maximum(x, low), high)


@inlined
def where(condition: Any, x: Any, y: Any) -> Any:
    """Return ``x`` if the condition holds, else ``y``."""
    return x if condition else y
