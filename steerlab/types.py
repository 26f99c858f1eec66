"""Types of arrays, in one place: by the kind of number, and by the shape where functions agree on it.

Shapes are jaxtyping's: a letter stands for one length within a call. Type checkers see plain arrays;
the tests check shapes and kinds of number with beartype (``tests/conftest.py``), nothing does at run time.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

if TYPE_CHECKING:
    _Array = NDArray[Any]
else:  # what jaxtyping asks values for
    _Array = np.ndarray

Array = NDArray[Any]
Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int32]
Codes = NDArray[np.int8]
#: Of any array namespace (numpy, torch, what numba compiles), or a single number.
AnyArray = Any

#: B cases of a tracking problem: states and targets, controls of T steps, paths of K states, one number each.
States = Float64[_Array, "b 2"]
Controls = Float64[_Array, "b t 1"]
Paths = Float64[_Array, "b k 2"]
PerCase = Float64[_Array, "b"]
