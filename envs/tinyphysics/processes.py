"""Share jobs out among processes, of which the one that asks is one."""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from steerlab.errors import InputError
from steerlab.processes import begin_worker

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")
_Progress = Callable[[int], None]
_Worker = Callable[[_Job, _Progress], _Result]


def share_out(
    start: Callable[[], _Worker[_Job, _Result]],
    jobs: Sequence[_Job],
    processes: int,
    progress: _Progress = lambda steps: None,
) -> list[_Result]:
    """Return the results of all jobs, in their order.

    Each process takes the next job when it is done with one, so one that starts later does less.

    Args:
        start: Makes what does a job; called once in each process. It can be pickled, like jobs and
            results, if there are several processes.
        jobs: The jobs.
        processes: How many processes work, this one included.
        progress: Handed to the worker of this process, and called for the jobs of the others with
            what their workers reported, when one is done.

    Raises:
        Exception: What a worker raised.
        InputError: A worker ended on its own, as it does when memory runs out.
    """
    if processes == 1:
        worker = start()
        return [worker(job, progress) for job in jobs]
    # Spawned, not forked: forking a process that runs threads of torch or onnxruntime may hang.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("l", 0)
    results: dict[int, _Result] = {}
    with _started(context, processes - 1, (os.getpid(), start, jobs, counter)) as links:
        worker = start()
        while (place := _take(counter)) < len(jobs):
            results[place] = worker(jobs[place], progress)
            _collect(links, results, progress, block=False)
        while len(results) < len(jobs):
            if not links:
                raise InputError(
                    "a worker process ended on its own, perhaps for want of memory; run again, "
                    "with fewer processes"
                )
            _collect(links, results, progress, block=True)
    return [results[place] for place in range(len(jobs))]


@contextmanager
def _started(context: Any, count: int, given: tuple[Any, ...]) -> Iterator[list[Connection]]:
    """Start processes; end them afterwards, whatever happened."""
    running, links = [], []
    try:
        for _ in range(count):
            mine, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, *given), daemon=False)
            process.start()
            theirs.close()  # so that the end of the process is the end of the link
            running.append(process)
            links.append(mine)
        yield links
        for process in running:
            process.join()
    finally:
        for process in running:
            process.terminate()
            process.join()


def _work(link: Connection, parent: int, start: Any, jobs: Sequence[Any], counter: Any) -> None:
    """Do jobs until there are none; send place, result and progress of each."""
    begin_worker(parent)
    try:
        worker = start()
        while (place := _take(counter)) < len(jobs):
            done: list[int] = []
            link.send((place, worker(jobs[place], done.append), sum(done)))
    except Exception as error:  # noqa: BLE001  handed to the parent, whatever it is
        error.add_note(traceback.format_exc())
        link.send(error)


def _take(counter: Any) -> int:
    """Return the place of the next job."""
    with counter.get_lock():
        place = counter.value
        counter.value = place + 1
    return int(place)


def _collect(
    links: list[Connection], results: dict[int, Any], progress: _Progress, block: bool
) -> None:
    """Take what processes have sent."""
    for link in wait(links, None if block else 0):
        assert isinstance(link, Connection)
        try:
            sent = link.recv()
        except EOFError:
            links.remove(link)  # the process has ended
            continue
        if isinstance(sent, Exception):
            raise sent
        place, results[place], steps = sent
        progress(steps)
