"""pi0: the sampler against a closed form, the loss, and learning two modes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from steerlab.agents.chunk_policies import LinearChunks, MLPChunks
from steerlab.agents.pi0.model import Pi0, Pi0Config, Pi0Sampler, antithetic, consensus, pi0_loss
from steerlab.agents.supervised import FitConfig, TensorData, fit
from steerlab.errors import InputError
from steerlab.exporters.onnx import export_onnx
from steerlab.openpilot.engines import session

SMALL = Pi0Config(horizon=4, patch=2, width=32, layers=1)


def small(seed: int = 0) -> Pi0:
    torch.manual_seed(seed)
    return Pi0(SMALL)


def test_sampler_is_exact_for_gaussian_data() -> None:
    # For chunks N(m, s^2) the denoiser is linear and the flow maps noise z to m + s z.
    mean, deviation = 0.7, 0.3

    class Gaussian(Pi0):
        def mean(self, state: Tensor) -> Tensor:
            return torch.full((len(state), 4), mean)

        def denoise(self, x: Tensor, tau: Tensor, state: Tensor) -> Tensor:
            t = tau[:, None]
            gain = t * deviation**2 / ((1 - t) ** 2 + (t * deviation) ** 2)
            return mean + gain * (x - t * mean)

    noise = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    chunks = Gaussian(SMALL).sample(torch.zeros(50, 4), noise, steps=2000)
    torch.testing.assert_close(chunks, mean + deviation * noise, atol=5e-3, rtol=0)


def test_noise_at_the_start_says_nothing() -> None:
    model = small()
    state, noise = torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(model.denoise(noise, torch.zeros(3), state), model.mean(state))
    for steps in (1, 3):  # the sampler, which does not ask the transformer there, agrees
        x = noise
        for step in range(steps):
            tau = torch.full((3,), step / steps)
            x = x + (model.denoise(x, tau, state) - x) / (steps - step)
        torch.testing.assert_close(model.sample(state, noise, steps), x)


def test_action_tokens_see_each_other_in_both_directions() -> None:
    model = small()
    x = torch.randn(1, 4, requires_grad=True)
    model.denoise(x, torch.tensor([0.7]), torch.zeros(1, 4))[0, 0].backward()
    assert x.grad is not None
    assert (x.grad.abs() > 0).all()


def test_loss_draws_fresh_noise_and_repeats_with_the_generator() -> None:
    model, states, chunks = small(), torch.randn(16, 4), torch.randn(16, 4)
    rng = torch.Generator().manual_seed(0)
    first, second = (model.loss(states, chunks, rng)["loss"].item() for _ in range(2))
    assert first != second
    assert model.loss(states, chunks, torch.Generator().manual_seed(0))["loss"].item() == first


def test_learns_two_modes_where_the_mean_is_wrong(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    states = torch.as_tensor(rng.normal(size=(2048, 4)), dtype=torch.float32)
    side = torch.as_tensor(rng.choice([-1.0, 1.0], (2048, 1)), dtype=torch.float32)
    data = TensorData(state=states, chunk=side.expand(-1, 4) + 0.05 * states)
    model = small()
    model.normalizer.adapt(*data.tensors.values())
    config = FitConfig(epochs=12, batch_size=64, learning_rate=5e-3, device="cpu")
    fit(model, pi0_loss, data, data, config, tmp_path)
    sampler = Pi0Sampler(model, steps=10, samples=8)
    with torch.no_grad():
        drawn = sampler(torch.zeros(200, 4), antithetic(200, 8, 4, rng))
        single = sampler.draw(torch.zeros(200, 4), torch.randn(200, 8, 4))
    assert ((drawn.abs() - 1).abs() < 0.3).float().mean() > 0.9
    # Samples go to both sides; a consensus takes the side of more, or closer, samples of its eight.
    assert 0.25 < (single[..., 0] > 0).float().mean() < 0.75
    assert (drawn.sign() == drawn[:, :1].sign()).all(dim=1).float().mean() > 0.95


def test_consensus_stays_on_one_side_and_else_is_the_mean() -> None:
    left, right = -torch.ones(1, 5, 6), torch.ones(1, 3, 6)
    noise = 0.01 * torch.randn(1, 8, 6, generator=torch.Generator().manual_seed(0))
    result = consensus(torch.cat([left, right], dim=1) + noise)
    torch.testing.assert_close(result, -torch.ones(1, 6), atol=0.05, rtol=0)
    pair = torch.cat([left[:, :1], right[:, :1]], dim=1)
    torch.testing.assert_close(consensus(pair), left[:, 0])
    torch.testing.assert_close(consensus(right[:, :1]), right[:, 0])
    wide = torch.randn(50, 16, 50, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(consensus(wide), wide.mean(dim=1), atol=0.15, rtol=0)


def test_antithetic_noise_cancels() -> None:
    noise = antithetic(3, 8, 5, np.random.default_rng(0))
    torch.testing.assert_close(noise.mean(dim=1), torch.zeros(3, 5))
    assert noise.shape == (3, 8, 5)
    assert antithetic(3, 5, 2, np.random.default_rng(0)).shape == (3, 5, 2)


@pytest.mark.slow
def test_exported_sampler_is_the_sampler(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sampler = Pi0Sampler(small().eval(), steps=3)
    rng = np.random.default_rng(0)
    example = (torch.randn(2, 4), antithetic(2, 16, 4, rng))
    export_onnx(sampler, example, tmp_path / "p.onnx", ["state", "noise"], ["chunk"])
    state, noise = torch.randn(5, 4), antithetic(5, 16, 4, rng)
    found = session(tmp_path / "p.onnx").run(None, {"state": state.numpy(), "noise": noise.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found[0], sampler(state, noise).numpy(), atol=1e-4)


def test_linear_and_mlp_baselines() -> None:
    rng = np.random.default_rng(0)
    states, weights = rng.normal(size=(100, 4)), rng.normal(size=(4, 6))
    linear = LinearChunks(states, states @ weights + 1)
    inputs = torch.as_tensor(states, dtype=torch.float32)
    np.testing.assert_allclose(linear(inputs).numpy(), states @ weights + 1, atol=1e-4)
    assert sum(p.numel() for p in MLPChunks().parameters()) == 23_602


def test_bad_sizes() -> None:
    with pytest.raises(InputError, match="patch"):
        Pi0Config(horizon=50, patch=7)
    with pytest.raises(InputError, match="width"):
        Pi0Config(width=30)
