"""A tiny pi0: a transformer that carries noise to an action chunk, given the state.

Flow matching as in "pi0: A Vision-Language-Action Flow Model" (arXiv 2410.24164), at the size of a
toy: x_tau = (1 - tau) noise + tau chunk, and the field to learn is chunk - noise. Noise and tau are
drawn afresh for every batch, one tau a chunk, and all action tokens see each other. A token is a
patch of several actions, which makes training fast on a CPU.

The network predicts the chunk itself, D(x, tau, state), from which the field is
(D - x) / (1 - tau): where the state says almost everything, D hardly depends on x, and is much
easier to learn than a field that must repeat the noise.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steerlab.errors import InputError

#: Keys and values of one block, each (B, heads, L, width / heads).
Cache = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Pi0Config:
    """Size of the network."""

    horizon: int = 50  # actions of a chunk
    patch: int = 10  # actions of a token
    width: int = 64
    layers: int = 3
    heads: int = 4
    states: int = 4

    def __post_init__(self) -> None:
        if self.horizon % self.patch:
            raise InputError(f"patch={self.patch} must divide the chunk of {self.horizon} actions")
        if self.width % (2 * self.heads):
            raise InputError(f"width={self.width} must be a multiple of 2 x heads={2 * self.heads}")


class Normalizer(nn.Module):
    """Mean and standard deviation of states and actions, kept with the weights."""

    state_mean: Tensor
    state_std: Tensor
    action_mean: Tensor
    action_std: Tensor

    def __init__(self, states: int, horizon: int) -> None:
        super().__init__()
        for name, size in (("state", states), ("action", horizon)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))

    def adapt(self, states: Tensor, chunks: Tensor | None = None) -> None:
        """Take the statistics of training data: states (N, S) and chunks (N, H)."""
        for name, data in (("state", states), ("action", chunks)):
            if data is not None:
                getattr(self, f"{name}_mean").copy_(data.mean(0))
                getattr(self, f"{name}_std").copy_(data.std(0).clamp_min(1e-6))

    def state(self, states: Tensor) -> Tensor:
        """Return normalised states."""
        return (states - self.state_mean) / self.state_std

    def action(self, chunks: Tensor) -> Tensor:
        """Return normalised chunks."""
        return (chunks - self.action_mean) / self.action_std

    def to_action(self, normal: Tensor) -> Tensor:
        """Return chunks in the units of the actions."""
        return normal * self.action_std + self.action_mean


class Block(nn.Module):
    """Self-attention and a feed-forward layer, both steered by a condition (adaptive norms)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.steer = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.steer.weight)
        nn.init.zeros_(self.steer.bias)

    def forward(self, x: Tensor, condition: Tensor, causal: bool = False) -> Tensor:
        """Return tokens (B, L, W).

        Args:
            x: Tokens (B, L, W).
            condition: What steers them, (B, W).
            causal: Hide later tokens from earlier ones.
        """
        width = x.shape[-1]
        s1, b1, g1, s2, b2, g2 = self.scales(condition.unsqueeze(1))
        y = F.layer_norm(x, (width,)) * s1 + b1
        q, k, v = self.qkv(y).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)
        x = x + g1 * self.out(y)
        y = F.layer_norm(x, (width,)) * s2 + b2
        return x + g2 * self.feed(y)

    def scales(self, condition: Tensor) -> list[Tensor]:
        """Return scale, shift and gate (..., W) of the attention, then of the feed-forward layer."""
        s1, b1, g1, s2, b2, g2 = self.steer(condition).chunk(6, dim=-1)
        return [1 + s1, b1, 1 + g1, 1 + s2, b2, 1 + g2]

    def column(self, x: Tensor, scales: list[Tensor], past: Cache | None) -> tuple[Tensor, Cache]:
        """Return the last token (B, W) alone, and keys and values (B, heads, L, W / heads) so far.

        The same as :meth:`forward` with ``causal``, for one token at a time and in few operations, of
        which each costs more than its arithmetic at this size.

        Args:
            x: The token (B, W).
            scales: What :meth:`scales` returns for the condition (B, W).
            past: Keys and values of the tokens before.
        """
        width = x.shape[-1]
        s1, b1, g1, s2, b2, g2 = scales
        y = F.layer_norm(x, (width,)) * s1 + b1
        heads = self.qkv(y).unflatten(-1, (3 * self.heads, 1, width // self.heads))
        q, k, v = heads.chunk(3, dim=1)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        weights = (q @ k.transpose(2, 3) * (width // self.heads) ** -0.5).softmax(dim=-1)
        x = x + g1 * self.out((weights @ v).flatten(1))
        y = F.layer_norm(x, (width,)) * s2 + b2
        return x + g2 * self.feed(y), (k, v)


class Pi0(nn.Module):
    """The denoiser D, the loss it is trained with, and the sampler.

    Args:
        config: Size of the network.
    """

    frequencies: Tensor

    def __init__(self, config: Pi0Config = Pi0Config()) -> None:
        super().__init__()
        self.config = config
        width, tokens = config.width, config.horizon // config.patch
        self.normalizer = Normalizer(config.states, config.horizon)
        self.embed = nn.Linear(config.patch, width)
        self.encode = nn.Sequential(
            nn.Linear(config.states, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, 2 * width),
            nn.SiLU(),
        )
        self.prefix = nn.Linear(2 * width, tokens * width)
        self.mean_chunk = nn.Linear(2 * width, config.horizon)
        self.condition = nn.Sequential(nn.Linear(3 * width, width), nn.SiLU())
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.layers))
        self.unembed = nn.Linear(width, config.patch)
        self.register_buffer(
            "frequencies", 0.5 * 1.15 ** torch.arange(width // 2), persistent=False
        )

    def mean(self, state: Tensor) -> Tensor:
        """Return the expected chunk (B, H) of a state (B, 4), both normalised."""
        return self.mean_chunk(self.encode(state))

    def denoise(self, x: Tensor, tau: Tensor, state: Tensor) -> Tensor:
        """Return the expected chunk (B, H) behind x (B, H) at tau (B,), all normalised.

        At tau = 0 there is nothing but noise in x, and the answer is :meth:`mean`.
        """
        phase = tau[:, None] * self.frequencies
        known = self.encode(state)
        condition = self.condition(torch.cat([known, phase.sin(), phase.cos()], dim=-1))
        tokens = self.embed((tau[:, None] * x).unflatten(-1, (-1, self.config.patch)))
        tokens = tokens + self.prefix(known).unflatten(-1, (-1, self.config.width))
        for block in self.blocks:
            tokens = block(tokens, condition)
        change = self.unembed(F.layer_norm(tokens, tokens.shape[-1:])).flatten(1)
        return self.mean_chunk(known) + tau[:, None] * change

    def loss(self, states: Tensor, chunks: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the flow-matching loss on states (B, 4) and chunks (B, H).

        tau is 1 - t with t = 0.001 + 0.999 Beta(1.5, 1) as in pi0, more noise than signal. The
        error of the field, (D - chunk) / (1 - tau), is weighted with (1 - tau)^2. The same error at
        tau = 0 is added: every sample starts there, but few draws of tau come near.
        """
        state, chunk = self.normalizer.state(states), self.normalizer.action(chunks)
        noise = torch.randn(chunk.shape, generator=rng, device=chunk.device)
        uniform = torch.rand(len(chunk), generator=rng, device=chunk.device)
        tau = 1 - (0.001 + 0.999 * uniform ** (1 / 1.5))  # the inverse of Beta(1.5, 1)'s t^1.5
        x = torch.lerp(noise, chunk, tau[:, None])
        error = self.denoise(x, tau, state) - chunk
        start = self.mean(state) - chunk
        return {"loss": error.square().mean() + start.square().mean()}

    def sample(self, states: Tensor, noise: Tensor, steps: int = 10) -> Tensor:
        """Return chunks (B, H) by ``steps`` Euler steps from ``noise`` (B, H) at tau = 0."""
        state = self.normalizer.state(states)
        x = torch.lerp(noise, self.mean(state), 1 / steps)
        for step in range(1, steps):
            tau = torch.full_like(x[:, 0], step / steps)
            x = x + (self.denoise(x, tau, state) - x) / (steps - step)
        return self.normalizer.to_action(x)


class Pi0Sampler(nn.Module):
    """States to chunks: Euler's loop and the consensus as one module, to call or to export.

    Args:
        model: Trained network.
        steps: Euler steps.
        samples: Chunks drawn for a state, of which the consensus is returned.
    """

    def __init__(self, model: Pi0, steps: int = 3, samples: int = 16) -> None:
        super().__init__()
        if steps < 1 or samples < 1:
            raise InputError(f"steps={steps} and samples={samples} must be at least 1")
        self.model, self.steps, self.samples = model, steps, samples

    def forward(self, state: Tensor, noise: Tensor) -> Tensor:
        """Return chunks (B, H) for states (B, 4) and noise (B, samples, H)."""
        return consensus(self.draw(state, noise))

    def draw(self, state: Tensor, noise: Tensor) -> Tensor:
        """Return every chunk that was drawn, (B, samples, H)."""
        rows = state.repeat_interleave(self.samples, dim=0)
        chunks = self.model.sample(rows, noise.flatten(0, 1), self.steps)
        return chunks.unflatten(0, (-1, self.samples))


def antithetic(count: int, samples: int, horizon: int, rng: np.random.Generator) -> Tensor:
    """Return normal noise (count, samples, horizon) in pairs of opposite sign.

    Where experts agree up to normal noise the flow is nearly linear in its start, and the mean over
    such pairs is their mean without any sampling error.
    """
    half = rng.standard_normal((count, -(-samples // 2), horizon))
    return torch.as_tensor(np.concatenate([half, -half], axis=1)[:, :samples], dtype=torch.float32)


def consensus(chunks: Tensor, reach: float = 2.0) -> Tensor:
    """Return one chunk (B, H) that many of the samples (B, K, H) agree on.

    The centre is the sample that is nearest to its nearest half; the mean is taken over all within
    ``reach`` times the lower quartile of the distances to it. Where all samples are of one kind that
    is their mean, which is what an unstable plant wants. Where experts do either this or that,
    it stays with one of them.
    """
    count = chunks.shape[1]
    if count < 3:  # two are as near to each other as each to the other
        return chunks[:, 0]
    squares = chunks.square().sum(dim=-1)
    products = chunks @ chunks.transpose(1, 2)
    distances = (squares[:, :, None] + squares[:, None, :] - 2 * products).clamp_min(0).sqrt()
    # Three at least, the sample itself among them: of two that are each other's nearest, both would win.
    crowd = max(-(-count // 2), 3)
    nearest, _ = distances.topk(crowd, dim=-1, largest=False)
    centre = nearest.sum(dim=-1).argmin(dim=-1)
    away = distances.gather(1, centre[:, None, None].expand(-1, 1, count)).squeeze(1)
    quartile, _ = away.topk(count // 4 + 1, dim=-1, largest=False)
    weights = (away <= reach * quartile[:, -1:]).to(chunks.dtype)
    return (weights[:, :, None] * chunks).sum(dim=1) / weights.sum(dim=1, keepdim=True)


def pi0_loss(model: nn.Module, batch: dict[str, Any], rng: torch.Generator) -> dict[str, Tensor]:
    """Adapt :meth:`Pi0.loss` to the shared training loop."""
    assert isinstance(model, Pi0)
    return model.loss(batch["state"], batch["chunk"], rng)
