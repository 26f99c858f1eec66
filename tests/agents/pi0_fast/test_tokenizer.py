"""The tokenizer: exact round trips, bounded errors, and nothing unknown."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from steerlab.agents.pi0_fast.tokenizer import BOS, EOS, PAD, FastTokenizer
from steerlab.errors import InputError

pytest.importorskip("tokenizers")


def chunks(count: int = 300, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    decay = np.exp(-np.arange(50) / rng.uniform(2, 8, (count, 1)))
    return np.clip(rng.normal(size=(count, 1)) * decay, -3, 3)


@cache
def tokenizer(scale: float = 10.0, vocabulary: int = 400) -> FastTokenizer:
    return FastTokenizer.train(chunks(), scale, vocabulary)


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, (2, 50), elements=st.floats(-3, 3)))
def test_decode_of_encode_is_the_quantized_chunk(values: np.ndarray) -> None:
    t = tokenizer()
    np.testing.assert_array_equal(t.decode(t.encode(values)), t.restore(t.quantize(values)))


def test_tokens_survive_a_round_trip_and_hold_nothing_unknown() -> None:
    t = tokenizer()
    encoded = t.encode(chunks(100, 1))
    assert t.encode(t.decode(encoded)) == encoded
    assert min(i for tokens in encoded for i in tokens) > max(BOS, EOS, PAD) + 1


def test_error_is_bounded_by_the_rounding() -> None:
    t = tokenizer(20.0, 800)
    values = chunks()
    error = t.decode(t.encode(values)) - values
    # Half a unit in each of 50 orthonormal coefficients.
    assert np.sqrt((error**2).sum(axis=1)).max() <= np.sqrt(50) * 0.5 / 20 + 1e-12


def test_finer_scale_and_larger_vocabulary() -> None:
    values = chunks(100, 2)
    coarse, fine = tokenizer(), tokenizer(20.0, 800)
    errors = [np.sqrt(np.mean((t.decode(t.encode(values)) - values) ** 2)) for t in (coarse, fine)]
    assert errors[1] < 0.7 * errors[0]
    counts = [
        sum(map(len, tokenizer(10.0, v).encode(values))) for v in (tokenizer().high * 2 + 60, 400)
    ]
    assert counts[1] < counts[0]


def test_values_outside_the_training_range_are_limited() -> None:
    t = tokenizer()
    wild = np.full((1, 50), 100.0)
    assert t.quantize(wild).max() == t.high
    assert np.isfinite(t.decode(t.encode(wild))).all()


def test_all_zeros_is_the_empty_word() -> None:
    t = tokenizer()
    assert t.encode(np.zeros((1, 50))) == [[]]
    assert t.sequences(np.zeros((1, 50))).tolist() == [[BOS, EOS]]
    np.testing.assert_array_equal(t.decode([[]]), np.zeros((1, 50)))


def test_sequences_are_padded_and_decode_ignores_the_signs() -> None:
    t, values = tokenizer(), chunks(20, 3)
    padded = t.sequences(values)
    assert (padded[:, 0] == BOS).all()
    assert ((padded == EOS).sum(axis=1) == 1).all()
    np.testing.assert_array_equal(t.decode(padded.tolist()), t.decode(t.encode(values)))


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    t = tokenizer()
    t.save(tmp_path / "t.json")
    loaded = FastTokenizer.load(tmp_path / "t.json")
    assert loaded.encode(chunks(50, 4)) == t.encode(chunks(50, 4))
    np.testing.assert_array_equal(loaded.pieces, t.pieces)


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too small"):
        FastTokenizer.train(chunks(), 10.0, 20)
    with pytest.raises(InputError, match="scale"):
        FastTokenizer.train(chunks(), 0.0, 400)
    with pytest.raises(InputError, match="shape"):
        tokenizer().encode(np.zeros((2, 40)))
    with pytest.raises(InputError, match="finite"):
        tokenizer().encode(np.full((1, 50), np.nan))
    with pytest.raises(InputError, match="spell"):
        tokenizer().decode([[tokenizer().vocabulary - 1] * 60])
    with pytest.raises(InputError, match="must be in"):
        tokenizer().decode([[10**6]])
    (tmp_path / "x.json").write_text("{}")
    for name in ("x.json", "none.json"):
        with pytest.raises(InputError):
            FastTokenizer.load(tmp_path / name)
