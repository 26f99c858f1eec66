"""Windows against the simulator's own inputs, labels against their definition."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from steerlab.agents.classical.pid import PID
from steerlab.envs.tinyphysics.dynamics import Simulator
from steerlab.envs.tinyphysics.rollout import rollout
from steerlab.errors import InputError
from steerlab.surrogates.logs.extract import ExtractReport, Segment, save_segments
from steerlab.surrogates.plants.analytic import AnalyticPlant
from steerlab.surrogates.plants.gru import GruSurrogate
from steerlab.surrogates.plants.tokens import VOCABULARY, encode
from steerlab.surrogates.segments.data import Segments
from steerlab.surrogates.segments.synthetic import synthetic_segments
from steerlab.surrogates.training.dataset import (
    BAND,
    WIDE,
    Mixed,
    Recorder,
    Sequences,
    Windows,
    band_of,
    distil,
    from_labels,
    from_segments,
    join,
    next_token_loss,
    split_routes,
    take,
)
from steerlab.types import Singles


def drive(plant: Recorder, segments: Segments) -> tuple[np.ndarray, np.ndarray]:
    simulator = Simulator(plant, segments, len(segments))
    for _ in rollout(simulator, PID(), range(len(segments))):
        pass
    return simulator.steer, simulator.lataccel


class Watched(AnalyticPlant):
    """Keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[np.ndarray, np.ndarray, Singles]] = []

    def logits(self, states: np.ndarray, tokens: np.ndarray) -> Singles:
        logits = super().logits(states, tokens)
        self.asked.append((states.copy(), tokens.copy(), logits))
        return logits


@pytest.fixture(scope="module")
def distilled() -> tuple[Sequences, Watched]:
    teacher = Watched()
    return distil(teacher, synthetic_segments(3), drive), teacher  # type: ignore[arg-type]


def test_windows_are_what_the_simulator_asks(distilled: tuple[Sequences, Watched]) -> None:
    sequences, teacher = distilled
    windows = Windows(sequences)
    assert len(windows) == 3 * 480
    # The rollout comes first, step by step from 100; then the 80 steps of the warm-up.
    for step in (20, 99, 100, 101, 499):
        call = step - 100 if step >= 100 else 400 + step - 20
        states, tokens, logits = teacher.asked[call]
        batch = windows[torch.tensor([r * 480 + step - 20 for r in range(3)])]
        np.testing.assert_array_equal(batch["states"], states)
        np.testing.assert_array_equal(batch["tokens"], tokens)
        start, labels = band_of(logits)
        np.testing.assert_array_equal(batch["start"][:, 0], start)
        np.testing.assert_allclose(batch["label"][:, 0], labels.astype(float), atol=1e-3)


@given(predictions=st.integers(1, 40), stride=st.integers(0, 30), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_longer_windows_hold_the_same_predictions(
    distilled: tuple[Sequences, Watched], predictions: int, stride: int, seed: int
) -> None:
    sequences, _ = distilled
    single, many = Windows(sequences), Windows(sequences, predictions, stride)
    index = int(np.random.default_rng(seed).integers(len(many)))
    batch = many[torch.tensor([index])]
    assert batch["states"].shape == (1, 19 + predictions, 4)
    last = int(many._last[index]) - 20
    row = int(many._row[index])
    for back in (0, predictions - 1):
        one = single[torch.tensor([row * 480 + last - back])]
        end = 19 + predictions - back
        torch.testing.assert_close(batch["states"][:, end - 20 : end], one["states"])
        torch.testing.assert_close(batch["tokens"][:, end - 20 : end], one["tokens"])
        torch.testing.assert_close(batch["label"][:, -1 - back], one["label"][:, 0])


def test_each_label_is_used_once(distilled: tuple[Sequences, Watched]) -> None:
    windows = Windows(distilled[0], 10)
    ends = windows._last[windows._row == 1].numpy()
    used = (ends[:, None] - np.arange(10)).ravel()
    assert sorted(used) == list(range(20, 500))


def test_public_segments_are_their_first_100_rows() -> None:
    segments = synthetic_segments(4, seed=3)
    sequences = from_segments(segments)
    assert sequences.routes == segments.names
    windows = Windows(sequences)
    assert len(windows) == 4 * 80
    batch = windows[torch.tensor([0, 79, 80])]
    np.testing.assert_allclose(batch["states"][1, :, 0], segments.steer[0, 80:100], rtol=1e-6)
    np.testing.assert_allclose(batch["states"][1, :, 2], segments.v_ego[0, 80:100], rtol=1e-6)
    np.testing.assert_array_equal(batch["tokens"][1], encode(segments.target[0, 79:99]))
    came = batch["start"] + batch["label"].argmax(-1)
    np.testing.assert_array_equal(came[:, 0], encode(segments.target[[0, 0, 1], [20, 99, 20]]))


def test_extracted_segments(tmp_path: Path) -> None:
    table = np.zeros((300, 9))
    table[:, 1], table[:, 3], table[:, 4], table[:, 5], table[:, 6] = 20, 0.1, 0.3, -0.2, 0.5
    (tmp_path / "labels").mkdir()
    for name, rows in (("a--0000", 300), ("a--0001", 250), ("b--0000", 280)):
        segment = Segment(table[:rows], 0.0, {})
        save_segments(tmp_path / "labels" / f"{name}.npz", [segment], ExtractReport())
    sequences = from_labels(tmp_path)
    assert sequences.routes == ("a", "a", "b")
    assert len(Windows(sequences)) == 280 + 230 + 260
    np.testing.assert_allclose(sequences.states[0, 0], [0.2, np.sin(0.1) * 9.81, 20, 0], rtol=1e-6)
    assert sequences.tokens[0, 0] == encode(0.5)
    assert from_labels(tmp_path, "target").tokens[0, 0] == encode(0.3)
    with pytest.raises(InputError, match="did you mean 'target'"):
        from_labels(tmp_path, "targte")
    with pytest.raises(InputError, match="extract-segments"):
        from_labels(tmp_path / "labels")


def test_a_jump_out_of_the_band_is_no_example() -> None:
    tokens = np.full((1, 60), 500, dtype=np.int16)
    tokens[0, 40:] = 700
    states = np.zeros((1, 60, 4), dtype=np.float32)
    sequences = Sequences(states, tokens, np.array([60]), ("a",))
    assert 40 not in Windows(sequences)._last
    assert len(Windows(sequences)) == 39


def test_mixed_gives_each_part_its_own(distilled: tuple[Sequences, Watched]) -> None:
    parts = [Windows(distilled[0]), Windows(from_segments(synthetic_segments(2)))]
    mixed = Mixed(parts)
    assert len(mixed) == 1440 + 160
    batch = mixed[torch.tensor([1500, 3, 1440, 1439])]
    torch.testing.assert_close(batch["states"][0], parts[1][torch.tensor([60])]["states"][0])
    torch.testing.assert_close(batch["label"][1], parts[0][torch.tensor([3])]["label"][0])
    torch.testing.assert_close(batch["tokens"][2], parts[1][torch.tensor([0])]["tokens"][0])
    torch.testing.assert_close(batch["tokens"][3], parts[0][torch.tensor([1439])]["tokens"][0])


def test_split_is_by_route_and_repeatable() -> None:
    routes = [f"r{i // 3}" for i in range(60)]
    kept = split_routes(routes, 0.2, 1)
    assert len(kept) == 4
    assert kept == split_routes(reversed(routes), 0.2, 1)
    assert split_routes(["a", "b"], 0.01, 0) < {"a", "b"}
    with pytest.raises(InputError, match="by route"):
        split_routes(["a", "a"], 0.5, 0)


@torch.no_grad()
def test_loss_is_zero_for_the_label_and_the_nll_for_tokens() -> None:
    torch.manual_seed(0)
    model = GruSurrogate("small").eval()
    states, tokens = torch.randn(5, 20, 4), torch.randint(400, 600, (5, 20))
    whole = model(states, tokens)[:, -1:]
    start = (tokens[:, -1:] - BAND // 2).clamp(0, VOCABULARY - BAND)
    band = torch.stack([row[0, s : s + BAND] for row, s in zip(whole, start[:, 0], strict=True)])
    soft = {"states": states, "tokens": tokens, "start": start, "label": band.softmax(-1)[:, None]}
    rng = torch.Generator()
    assert float(next_token_loss(model, soft, rng)["loss"]) == pytest.approx(0.0, abs=1e-5)
    assert float(next_token_loss(model, soft, rng)["top1"]) == 1.0
    hard = soft | {"label": torch.nn.functional.one_hot(torch.full((5, 1), 64), BAND).float()}
    expected = -whole[:, 0].log_softmax(-1)[torch.arange(5), start[:, 0] + 64].mean()
    loss = next_token_loss(model, hard, rng)
    assert float(loss["loss"]) == pytest.approx(float(expected), abs=1e-3)
    assert float(loss["nll"]) == float(loss["loss"])


def test_labels_of_narrow_and_of_wide_distributions() -> None:
    logits = np.full((4, VOCABULARY), -50.0, dtype=np.float32)
    logits[0, 500], logits[1, 2] = 0.0, 0.0
    logits[2, [10, 900]] = np.log([0.7, 0.3])  # two far peaks: both are kept
    logits[3] = 0.0
    start, labels = band_of(logits)
    assert start.tolist() == [436, 0, WIDE, WIDE]
    assert labels.argmax(axis=1).tolist()[:2] == [64, 2]
    np.testing.assert_allclose(labels[2, [10 // 8, 900 // 8]], [0.7, 0.3], atol=1e-3)
    np.testing.assert_allclose(labels[3].astype(float), 1 / 128, rtol=1e-3)
    np.testing.assert_allclose(labels.astype(float).sum(axis=1), 1.0, atol=1e-3)


def test_loss_has_a_gradient_however_wrong_the_prediction() -> None:
    torch.manual_seed(0)
    model = GruSurrogate("small")
    states, tokens = torch.zeros(1, 20, 4), torch.full((1, 20), 500)
    label = torch.nn.functional.one_hot(torch.tensor([[100]]), BAND).float()
    batch = {"states": states, "tokens": tokens, "start": torch.tensor([[WIDE]]), "label": label}
    last = model.head[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.bias[2] = 20.0  # the lowest floor: about 36 nats below
    loss = next_token_loss(model, batch, torch.Generator())
    assert 20.0 < loss["loss"].item() < loss["nll"].item()
    loss["loss"].backward()
    assert last.bias.grad is not None
    assert last.bias.grad.abs().max() > 0.01


def test_join_take_and_files(distilled: tuple[Sequences, Watched], tmp_path: Path) -> None:
    sequences, _ = distilled
    both = join([sequences, replace(sequences, routes=("x", "y", "z"))])
    some = take(both, np.array([False, True, False, False, False, True]))
    assert some.routes == (sequences.routes[1], "z")
    assert some.labels is not None
    assert sequences.labels is not None
    np.testing.assert_array_equal(some.labels[0], sequences.labels[1])
    sequences.save(tmp_path / "a.npz")
    back = Sequences.load(tmp_path / "a.npz")
    assert back.routes == sequences.routes
    np.testing.assert_array_equal(back.states, sequences.states)
