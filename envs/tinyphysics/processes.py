"""Share jobs out among processes, of which the one that asks is one."""

import importlib
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Self, TypeVar

from steerlab.errors import InputError
from steerlab.processes import begin_worker

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")
_Progress = Callable[[int], None]
_Worker = Callable[[_Job, _Progress], _Result]
_NEEDED = "steerlab.envs.tinyphysics.rollout"  # what a job needs, loaded before there is one


class Workers:
    """Processes that do jobs beside this one, until the end of the ``with`` block.

    They may be started before there are jobs: then they come up while this process reads its files.
    """

    def __init__(self) -> None:
        # Spawned, not forked: forking a process that runs threads of torch or onnxruntime may hang.
        self._context = multiprocessing.get_context("spawn")
        self._counter: Any = None
        self._running: list[Any] = []
        self._links: list[Connection] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._end(at_once=any(error))

    def start(self, count: int) -> None:
        """See to it that at least ``count`` processes have been started."""
        if self._counter is None:
            self._counter = self._context.Value("l", 0)
        for _ in range(count - len(self._running)):
            mine, theirs = self._context.Pipe()
            process = self._context.Process(
                target=_work, args=(theirs, os.getpid(), self._counter), daemon=False
            )
            process.start()
            theirs.close()  # so that the end of the process is the end of the link
            self._running.append(process)
            self._links.append(mine)

    def share_out(
        self,
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
        self.start(processes - 1)
        try:
            return self._share_out(start, jobs, self._links[: processes - 1], progress)
        except BaseException:
            self._end(at_once=True)  # they are in the middle of something; new ones can be started
            raise

    def _share_out(
        self,
        start: Callable[[], _Worker[_Job, _Result]],
        jobs: Sequence[_Job],
        links: list[Connection],
        progress: _Progress,
    ) -> list[_Result]:
        self._counter.value = 0  # all wait for jobs: the last call saw each of them finish
        given = ForkingPickler.dumps((start, jobs))
        for link in links:  # in a thread, since one that is not up yet would be waited for
            threading.Thread(target=_send, args=(link, given), daemon=True).start()
        results: dict[int, _Result] = {}
        worker = start()
        while (place := _take(self._counter)) < len(jobs):
            results[place] = worker(jobs[place], progress)
            _collect(links, results, progress, block=False)
        while links:
            _collect(links, results, progress, block=True)
        if len(results) < len(jobs):
            raise InputError(
                "a worker process ended on its own, perhaps for want of memory; run again, "
                "with fewer processes"
            )
        return [results[place] for place in range(len(jobs))]

    def _end(self, at_once: bool) -> None:
        for link in self._links:
            link.close()  # who waits for jobs ends
        for process in self._running:
            if at_once:
                process.terminate()
            process.join()
        self._links, self._running = [], []


def _send(link: Connection, data: Any) -> None:
    with suppress(OSError):  # the process has ended, which who waits for its results is told
        link.send_bytes(data)


def _work(link: Connection, parent: int, counter: Any) -> None:
    """Do jobs whenever some are given; send place, result and progress of each, then None."""
    begin_worker(parent)
    importlib.import_module(_NEEDED)
    while True:
        try:
            start, jobs = link.recv()
        except EOFError:
            return  # there will be no more
        try:
            worker = start()
            while (place := _take(counter)) < len(jobs):
                done: list[int] = []
                link.send((place, worker(jobs[place], done.append), sum(done)))
            link.send(None)
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
        if sent is None:
            links.remove(link)  # there are no jobs left
            continue
        if isinstance(sent, Exception):
            raise sent
        place, results[place], steps = sent
        progress(steps)
