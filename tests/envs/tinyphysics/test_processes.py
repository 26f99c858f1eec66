"""Jobs shared out among processes, and the sizes of the chunks they are shared out in."""

import os
from collections.abc import Callable

import numpy as np
import pytest

from steerlab.envs.tinyphysics.processes import Workers
from steerlab.envs.tinyphysics.rollout import chunks
from steerlab.errors import InputError


class Squares:
    """Squares numbers and tells which process did; -1 is refused."""

    def __call__(self, job: int, progress: Callable[[int], None]) -> tuple[int, int]:
        if job == -1:
            raise InputError("not this one")
        progress(job)
        return job**2, os.getpid()


def test_workers_serve_several_calls_and_recover() -> None:
    jobs = list(range(2000))
    with Workers() as workers:
        workers.start(1)
        for _ in range(2):
            moved: list[int] = []
            found = workers.share_out(Squares, jobs, 2, moved.append)
            assert [square for square, _ in found] == [job**2 for job in jobs]
            assert sum(moved) == sum(jobs)
        with pytest.raises(InputError, match="not this one"):
            workers.share_out(Squares, [1, 2, -1, 3], 2)
        found = workers.share_out(Squares, [3, 4], 2)  # the others were ended; new ones start
        assert [square for square, _ in found] == [9, 16]


def test_one_process_needs_no_workers() -> None:
    with Workers() as workers:
        found = workers.share_out(Squares, [2, 3], 1)
    assert found == [(4, os.getpid()), (9, os.getpid())]


@pytest.mark.parametrize("count", [1, 5, 96, 97, 500])
@pytest.mark.parametrize("processes", [1, 2, 7])
@pytest.mark.parametrize("batch_size", [1, 12, 32])
def test_chunks_cover_all_and_get_smaller(count: int, processes: int, batch_size: int) -> None:
    parts = chunks(count, processes, batch_size)
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) <= batch_size
    assert sizes == sorted(sizes, reverse=True)
    assert len(parts) >= min(processes, count)
    if processes > 1:  # nobody waits long for the last one
        assert sizes[-1] <= max(4, count // (2 * processes))
