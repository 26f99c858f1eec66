"""The plain ways of running TinyPhysics give the costs of steerlab's own rollouts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from steerlab.agents.classical.pid import PID
from steerlab.envs.tinyphysics.peers import lean_rollout, official_rollout, peer
from steerlab.envs.tinyphysics.rollout import evaluate
from steerlab.surrogates.plants.load import DEFAULT_PLANT
from steerlab.surrogates.segments.synthetic import default_segments

pytest.importorskip("pandas")


@pytest.mark.parametrize("rollout", [official_rollout, lean_rollout])
def test_costs_are_those_of_the_batched_rollouts(rollout: Callable[[Any, str, str], float]) -> None:
    segments = default_segments()[:1]
    found = peer(segments, str(DEFAULT_PLANT), rollout)
    ours = evaluate(PID, segments, "default", "exact")
    assert found.rollouts == 1
    assert found.seconds > 0
    np.testing.assert_allclose(found.total_cost, ours.costs.total_cost, rtol=1e-9)
