"""Threads that share the rows of a batch, for work that leaves Python's lock alone."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

#: Rows that are worth a thread.
ROWS_PER_THREAD = 256


def share(
    work: Callable[..., Any], count: int, threads: int, arguments: tuple[Any, ...] = ()
) -> list[Any]:
    """Run ``work(begin, end, *arguments)`` over ``count`` rows, in parts on several threads.

    Returns:
        What the parts returned, in order.
    """
    parts = max(1, min(threads, count // ROWS_PER_THREAD))
    edges = [count * part // parts for part in range(parts + 1)]
    others = [workers().submit(work, begin, end, *arguments) for begin, end in pairwise(edges[1:])]
    return [work(0, edges[1], *arguments), *(other.result() for other in others)]


@cache
def workers() -> ThreadPoolExecutor:
    """Return the threads; a forked process makes its own."""
    return ThreadPoolExecutor(os.cpu_count(), "steerlab")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=workers.cache_clear)
