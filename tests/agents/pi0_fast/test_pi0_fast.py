"""pi0-FAST: causality, cache, valid chunks whatever the weights, and consensus."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from steerlab.agents.pi0.model import Block
from steerlab.agents.pi0_fast.model import (
    ChunkDecoder,
    Pi0Fast,
    Pi0FastConfig,
    pi0_fast_loss,
    stratified,
)
from steerlab.agents.pi0_fast.tokenizer import BOS, EOS, PAD, FastTokenizer
from steerlab.agents.supervised import FitConfig, TensorData, fit
from steerlab.errors import InputError
from steerlab.exporters.onnx import export_onnx
from steerlab.openpilot.engines import session

pytest.importorskip("tokenizers")
SIZE = Pi0FastConfig(width=32, layers=2, heads=4)


def chunks(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(rng.normal(size=(count, 1)) * np.exp(-np.arange(12) / 3), -3, 3)


@cache
def tokenizer() -> FastTokenizer:
    return FastTokenizer.train(chunks(300), 5.0, 120)


def network(seed: int = 0, spread: float = 1.0) -> Pi0Fast:
    torch.manual_seed(seed)
    model = Pi0Fast(tokenizer(), SIZE).eval()
    with torch.no_grad():  # far from uniform, so that every branch of the decoder is met
        model.unembed.weight.mul_(20 * spread)
        for name, weight in model.named_parameters():
            if "steer.weight" in name:
                weight.normal_(std=0.1)
    return model


def test_later_tokens_do_not_reach_earlier_scores() -> None:
    model, rng = network(), torch.Generator().manual_seed(0)
    tokens = torch.randint(4, 100, (1, 6), generator=rng)
    places = torch.arange(6)[None]
    context = model.context(torch.randn(1, 4))
    before = model.logits(tokens, places, context)
    tokens[0, 4] = 4 + (tokens[0, 4] + 1) % 90
    after = model.logits(tokens, places, context)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert (before[:, 4] != after[:, 4]).any()


def test_cached_columns_equal_the_whole_sequence() -> None:
    model = network()
    decoder = ChunkDecoder(model)
    tokens, places = torch.randint(4, 100, (3, 6)), torch.arange(6).expand(3, 6)
    context = model.context(torch.randn(3, 4))
    whole = model.logits(tokens, places, context)
    scales = [block.scales(context[1]) for block in model.blocks if isinstance(block, Block)]
    past = None
    for k in range(6):
        column, past = decoder.column(tokens[:, k], places[:, k], context[0], scales, past)
        torch.testing.assert_close(column, whole[:, k], atol=1e-4, rtol=1e-4)


def test_loss_ignores_padding_and_matches_a_plain_computation() -> None:
    model = network(spread=0.05)
    sequences = torch.as_tensor(tokenizer().sequences(chunks(40)))
    states = torch.randn(40, 4)
    padded = torch.cat([sequences, torch.full((40, 3), PAD)], dim=1)
    loss = model.loss(states, sequences)["loss"]
    torch.testing.assert_close(loss, model.loss(states, padded)["loss"])
    total, count = 0.0, 0
    for state, row in zip(states, sequences.long(), strict=True):
        row = row[: int((row == EOS).nonzero()[0]) + 1][None]
        places = model.lengths[row[:, :-1]].cumsum(1)
        scores = model.logits(row[:, :-1], places, model.context(state[None]))
        total -= scores.log_softmax(-1)[0, torch.arange(row.shape[1] - 1), row[0, 1:]].sum().item()
        count += row.shape[1] - 1
    assert loss.item() == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("samples", [1, 4])
def test_whatever_is_drawn_is_a_valid_chunk(seed: int, samples: int) -> None:
    model = network(seed)
    decoder = ChunkDecoder(model, samples, 12)
    rng = np.random.default_rng(seed)
    drawn, tokens = decoder.draw(torch.randn(8, 4), stratified(8, samples, 12, rng))
    rows = tokens.flatten(0, 1).tolist()
    assert not {BOS, 3} & {t for row in rows for t in row}
    for row in rows:  # nothing but padding after the end
        assert set(row[row.index(EOS) + 1 :] if EOS in row else []) <= {PAD}
    # The tokenizer raises when tokens spell too much, and spells the same otherwise.
    theirs = tokenizer().decode(rows)
    np.testing.assert_allclose(drawn.flatten(0, 1).detach().numpy(), theirs, atol=1e-5)


def test_samples_follow_the_probabilities() -> None:
    decoder = ChunkDecoder(network(), 8, 4)
    scores = torch.tensor([[0.0, -torch.inf, 1.0, 2.0]]).expand(10_000, -1)
    uniforms = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    drawn = torch.bincount(decoder._choose(scores, uniforms), minlength=4) / 10_000
    torch.testing.assert_close(drawn, scores[0].softmax(0), atol=0.02, rtol=0)


def test_stratified_numbers_hit_every_part_once() -> None:
    draws = stratified(5, 8, 3, np.random.default_rng(0))
    parts = (draws * 8).long().sort(dim=1).values
    assert (parts == torch.arange(8)[None, :, None]).all()


@pytest.mark.slow
def test_learns_to_write_the_chunk_of_a_state(tmp_path: Path) -> None:
    values = chunks(1024)
    states = torch.as_tensor(np.repeat(values[:, :1], 4, axis=1), dtype=torch.float32)
    sequences = torch.as_tensor(tokenizer().sequences(values))
    data = TensorData(state=states, tokens=sequences)
    torch.manual_seed(0)
    model = Pi0Fast(tokenizer(), SIZE)
    model.normalizer.adapt(states)
    config = FitConfig(epochs=20, batch_size=64, learning_rate=5e-3, device="cpu")
    fit(model, pi0_fast_loss, data, data, config, tmp_path)
    rng = np.random.default_rng(0)
    for samples in (1, 8):
        with torch.no_grad():
            drawn = ChunkDecoder(model, samples, 12)(states, stratified(1024, samples, 12, rng))
        error = (drawn.numpy() - tokenizer().restore(tokenizer().quantize(values))) ** 2
        assert np.sqrt(error.mean()) < 0.2 * values.std()


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 4])
def test_exported_decoder_is_the_decoder(tmp_path: Path, samples: int) -> None:
    decoder = ChunkDecoder(network(spread=0.2), samples, 4).eval()
    rng = np.random.default_rng(0)
    example = (torch.randn(2, 4), stratified(2, samples, 4, rng))
    export_onnx(decoder, example, tmp_path / "f.onnx", ["state", "uniforms"], ["chunk"])
    state, draws = torch.randn(5, 4), stratified(5, samples, 4, rng)
    feeds = {"state": state.numpy(), "uniforms": draws.numpy()}
    found = session(tmp_path / "f.onnx").run(None, feeds)[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, decoder(state, draws).numpy(), atol=1e-4)


def test_bad_options() -> None:
    with pytest.raises(InputError, match="samples"):
        ChunkDecoder(network(), 0)
    with pytest.raises(InputError, match="width"):
        Pi0FastConfig(width=30)
