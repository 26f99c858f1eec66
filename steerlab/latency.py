"""How long a call takes."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def latency(call: Callable[[], Any], seconds: float = 1.0) -> dict[str, float]:
    """Return median and 99th percentile in microseconds of ``call``, after a warm-up."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds / 5:
        call()
    times: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times) < 5:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return {
        "median_us": 1e6 * float(np.median(times)),
        "p99_us": 1e6 * float(np.quantile(times, 0.99)),
    }
