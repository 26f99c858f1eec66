"""Worker processes that end with their parent, and signals that stop a study."""

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, TypeVar

from steerlab.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: stop as after Ctrl-C."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise :class:`Terminated` when SIGTERM arrives during the block, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise Terminated

    old = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


@contextmanager
def worker_pool(
    count: int, initializer: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of ``count`` processes; none of them outlives the block or this process.

    They are spawned: a fork of a process with threads (torch, onnxruntime) may hang. Ctrl-C is left
    to this process, which ends them.

    Args:
        count: Number of processes.
        initializer: Called once in each of them.
        arguments: Its arguments; plain pickle has to read both.

    Raises:
        InputError: A worker ended on its own, as it does when memory runs out.
    """
    others = set(multiprocessing.active_children())
    # As bytes: what they need is imported, for seconds, only when the worker ends with its parent.
    work = pickle.dumps((initializer, arguments))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, _begin, (os.getpid(), work))
    try:
        yield pool
        pool.shutdown()
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        if isinstance(error, BrokenProcessPool):
            raise InputError(
                "a worker process ended on its own, perhaps for want of memory; run again, "
                "with fewer processes"
            ) from error
        raise


def in_order(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    processes: int,
    initializer: Callable[..., None] | None = None,
) -> Iterator[Result]:
    """Yield ``work(item)`` for all items in their order, computed by up to ``processes`` processes.

    Args:
        work: Called for each item; picklable, as its results are, if there is more than one process.
        items: What it is called with.
        processes: Most processes; one is this process itself.
        initializer: Called once in each worker.

    Raises:
        InputError: A worker ended on its own.
    """
    if min(processes, len(items)) <= 1:
        yield from map(work, items)
        return
    with worker_pool(min(processes, len(items)), initializer) as pool:
        yield from pool.map(work, items)


def one_thread() -> None:
    """Initialise a worker: the pool shares out the cores, so torch uses one thread in it."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def process_rank() -> int:
    """Return the number of this process among those that ``torchrun`` started; 0 if it did not."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def processes() -> tuple[int, int]:
    """Return how many processes ``torchrun`` started on each machine, and on how many machines."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 1, 1
    return int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])


def _begin(parent: int, work: bytes) -> None:
    begin_worker(parent)
    initializer, arguments = pickle.loads(work)
    if initializer:
        initializer(*arguments)


def begin_worker(parent: int) -> None:
    """Make this process a worker: it leaves Ctrl-C to its parent, and ends when that ends.

    Args:
        parent: Number of the process that started this one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        watched = multiprocessing.parent_process()
        if watched:
            threading.Thread(target=_watch, args=(watched.sentinel,), daemon=True).start()
    if os.getppid() != parent:  # it ended before the lines above
        os._exit(1)


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
