"""No two streams of seeds meet, and global generators are left as they were."""

import json
import random
from importlib.resources import files

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from steerlab import seeds
from steerlab.errors import InputError

RUN = st.tuples(
    st.sampled_from(seeds.STREAMS),
    st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1)),
    st.integers(0, 2**25),
    st.integers(1, 2**25),
)
FIXED = ("HELD_OUT_ROADS", "HARD", "FILM", "REFERENCE_IO", "HELD_OUT")


def block(run: tuple[str, int, int, int]) -> tuple[int, int]:
    first = seeds.episode_seed(*run)
    return first, first + run[3] - 1


@given(RUN, RUN)
def test_blocks_of_other_runs_do_not_meet(one: tuple, other: tuple) -> None:
    (a, b), (c, d) = block(one), block(other)
    if one[:2] != other[:2]:
        assert b < c or d < a
    else:  # within one run, episodes are counted on
        assert (b < c or d < a) == (one[2] + one[3] <= other[2] or other[2] + other[3] <= one[2])


@given(RUN, st.sampled_from(FIXED), st.integers(0, 10**8 - 1))
def test_no_stream_reaches_a_fixed_set(run: tuple, name: str, episode: int) -> None:
    first, last = block(run)
    assert not first <= getattr(seeds, name) + episode <= last
    assert last < 2**63  # fits where int64 is asked for


def test_fixed_sets_do_not_meet() -> None:
    starts = sorted(getattr(seeds, name) for name in FIXED)
    assert min(np.diff(starts)) >= 10**8
    text = files("steerlab.agents.policynet").joinpath("held_out.json").read_text("utf-8")
    assert json.loads(text)["first_seed"] == seeds.HELD_OUT == 2_000_000_000


def test_known_values() -> None:
    """Changing them would silently give every run other episodes."""
    assert seeds.episode_seed("training", 0) == 1 << 58
    assert seeds.episode_seed("imitation", 3, 5) == (2 << 58) + (3 << 26) + 5
    assert seeds.generator_seed("training", 0) != seeds.generator_seed("training", 1)
    drawn = {seeds.generator_seed(s, n, k) for s in seeds.STREAMS for n in range(5) for k in (0, 1)}
    assert len(drawn) == 10 * len(seeds.STREAMS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trainin", 0), "did you mean 'training'"),
        (("training", -1), "seed=-1 must be in"),
        (("training", 2**32), "must be in"),
        (("training", 0, 2**26, 1), "another seed"),
    ],
)
def test_refusals(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        seeds.episode_seed(*arguments)


def legacy_state() -> NDArray[np.uint32]:
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    assert isinstance(state, dict)
    return state["state"]["key"].copy()


def test_initial_weights_leave_no_trace() -> None:
    states = (
        random.getstate(),
        legacy_state(),
        torch.get_rng_state(),
    )
    with seeds.initial_weights(7):
        one = torch.nn.Linear(2, 2).weight
    with seeds.initial_weights(8):
        assert not torch.equal(torch.nn.Linear(2, 2).weight, one)
    with pytest.raises(ZeroDivisionError), seeds.initial_weights(7):
        1 / torch.nn.Linear(2, 2).weight.numel().__sub__(4)
    with seeds.initial_weights(7):
        assert torch.equal(torch.nn.Linear(2, 2).weight, one)
    with seeds.unchanged_generators():
        seeds.seed_generators(5)
        drawn = random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002
    with seeds.unchanged_generators():
        seeds.seed_generators(5)
        assert drawn == (random.random(), np.random.rand(), float(torch.rand(())))  # noqa: NPY002
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(legacy_state(), states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
