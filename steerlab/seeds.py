"""The one table of seeds: named streams that cannot meet, whatever ``seed=`` a user gives.

A batch of N rows that is reset with the seed ``s`` uses ``s`` to ``s + N - 1``. A stream therefore
gives each run (its ``seed``) a block of :data:`BLOCK` consecutive integers of its own::

    bits 58..62   stream     bits 26..57   seed of the run     bits 0..25   episode

The fixed sets of episodes, and whatever a user writes as ``env.reset(seed=...)``, lie below 2^58,
where no stream begins.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from steerlab.errors import InputError, unknown_name

#: What episodes and random numbers are for. Append only: the place in the tuple is the stream.
STREAMS = (
    "training",  # episodes that a learner drives, and its minibatches
    "imitation",  # episodes of a warm start
    "reinforcement",  # episodes of the reinforcement learning that follows imitation
    "validation",  # what early stopping and the choice of a checkpoint look at
    "evaluation",  # episodes of an evaluation
    "data",  # what generators of data sets draw
)
_EPISODE_BITS, _SEED_BITS = 26, 32
BLOCK = 1 << _EPISODE_BITS  # episodes of one stream of one run

#: First seeds of the fixed sets of episodes; each has fewer than 10^8. No stream reaches them.
HELD_OUT_ROADS = 10_000_000  # of train-kinematic-driver and compare-cvar
HARD = 1_700_000_000
FILM = 1_800_000_000
REFERENCE_IO = 1_900_000_000  # inputs that are recorded beside an exported policy
HELD_OUT = 2_000_000_000  # as frozen in agents/policynet/held_out.json


def episode_seed(stream: str, seed: int = 0, first: int = 0, count: int = 1) -> int:
    """Return the first of ``count`` consecutive seeds of episodes.

    Args:
        stream: One of :data:`STREAMS`.
        seed: The run's ``seed``, 0 to 2^32 - 1.
        first: Episodes of this stream that the run has used before.
        count: Episodes that are needed.

    Raises:
        InputError: The stream is unknown, ``seed`` is out of range, or the block is too short.
    """
    place = _place(stream, seed)
    if first < 0 or count < 0 or first + count > BLOCK:
        raise InputError(
            f"episodes {first} to {first + count} of the stream {stream!r} exceed the {BLOCK:,} that "
            "a run has; use another seed= for the rest"
        )
    return (place << _SEED_BITS | seed) << _EPISODE_BITS | first


def generator_seed(stream: str, seed: int = 0, *key: int) -> int:
    """Return a seed (63 bits) for a generator of torch or numpy.

    Args:
        stream: One of :data:`STREAMS`.
        seed: The run's ``seed``, 0 to 2^32 - 1.
        key: Distinguishes generators of one run, such as (epoch, purpose).

    Raises:
        InputError: The stream is unknown or ``seed`` is out of range.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(_place(stream, seed), *key))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Make torch modules inside with the weights of ``seed``; the caller's generators stay."""
    import torch

    with unchanged_generators():
        torch.manual_seed(seed)
        yield


def seed_generators(value: int) -> None:
    """Seed the global generators; only ever within :func:`unchanged_generators`."""
    import torch

    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 - stable-baselines3 draws from it
    torch.manual_seed(value)


@contextmanager
def unchanged_generators() -> Iterator[None]:
    """Put the global generators of Python, numpy and torch back as they were, errors included."""
    import torch

    python: Any = random.getstate()
    legacy: Any = np.random.get_state()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


def _place(stream: str, seed: int) -> int:
    if stream not in STREAMS:
        raise unknown_name("stream of seeds", stream, STREAMS)
    if not 0 <= seed < 1 << _SEED_BITS:
        raise InputError(f"seed={seed} must be in 0..{(1 << _SEED_BITS) - 1}")
    return STREAMS.index(stream) + 1
