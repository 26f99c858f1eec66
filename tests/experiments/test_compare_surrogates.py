"""Divergences and likelihoods against closed forms; a plant against itself."""

from pathlib import Path

import numpy as np
import pytest

from steerlab.errors import InputError
from steerlab.experiments.compare_surrogates import choose, compare, likelihood
from steerlab.surrogates.plants.analytic import AnalyticPlant
from steerlab.surrogates.plants.base import Plant
from steerlab.surrogates.plants.divergence import divergence
from steerlab.surrogates.segments.synthetic import synthetic_segments
from steerlab.types import Singles


class Uniform(Plant):
    def logits(self, states: np.ndarray, tokens: np.ndarray) -> Singles:
        return np.zeros((len(states), 1024), dtype=np.float32)


class Wide(AnalyticPlant):
    DEVIATION = 0.07


def test_divergence_of_normal_densities() -> None:
    x = np.arange(1024.0)

    def normal(mean: float, width: float) -> Singles:
        return (-0.5 * ((x - mean) / width) ** 2)[None].astype(np.float32)

    for temperature in (1.0, 0.8):
        a, b = (width * np.sqrt(temperature) for width in (10.0, 20.0))
        expected = np.log(b / a) + (a**2 + 4.0) / (2 * b**2) - 0.5
        found = divergence(normal(500, 10), normal(502, 20), temperature)
        assert found[0] == pytest.approx(expected, rel=1e-4)
    assert divergence(normal(500, 10), normal(500, 10), 1.0)[0] == pytest.approx(0, abs=1e-12)


def test_likelihood_of_a_uniform_plant() -> None:
    assert likelihood(Uniform(), synthetic_segments(3)) == pytest.approx(np.log(1024))


@pytest.mark.slow
def test_a_plant_against_itself_and_another() -> None:
    figures, costs = compare(
        AnalyticPlant(), {"same": AnalyticPlant(), "wide": Wide()}, synthetic_segments(4)
    )
    teacher, noise, same, wide = figures
    assert noise.kl == pytest.approx(0.0, abs=1e-9)
    assert noise.total_cost != teacher.total_cost
    assert noise.total_cost == pytest.approx(teacher.total_cost, rel=0.3)
    assert same.kl == pytest.approx(0.0, abs=1e-9)
    assert (same.total_cost, same.rank) == (teacher.total_cost, pytest.approx(1.0))
    assert wide.kl > 0.1
    assert wide.total_cost > teacher.total_cost
    assert costs.columns == [
        "route",
        "teacher total_cost",
        "teacher, other noise total_cost",
        "same total_cost",
        "wide total_cost",
    ]


def test_choice_of_routes() -> None:
    segments = synthetic_segments(5)
    assert choose(segments, 3, 2).names == ("00003", "00004")
    with pytest.raises(InputError, match="needs 6 routes"):
        choose(segments, 3, 3)


def test_benchmarks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("capnp")
    from steerlab.experiments import benchmark_extraction, benchmark_surrogates

    monkeypatch.chdir(tmp_path)
    config = benchmark_surrogates.Config(
        reference="analytic", plants=["analytic"], batches=(2,), runtimes=("exact",), seconds=0.01
    )
    rows = benchmark_surrogates.run(config, tmp_path)
    assert [row["batch"] for row in rows] == [2, 2]
    data = benchmark_extraction._write(tmp_path / "logs", "qlog", 2)
    seconds = benchmark_extraction._timed(data, tmp_path / "out", 1)
    assert seconds > 0
    assert len(list((tmp_path / "out").glob("*.csv"))) == 2
