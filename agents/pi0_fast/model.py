"""A tiny pi0-FAST: a causal transformer that writes an action chunk as tokens, given the state.

After "FAST" (arXiv 2501.09747), at the size of a toy. The state is the prefix of the sequence; the
next token is learned by cross-entropy, end sign included. At decoding each token that would spell
more coefficients than a chunk has is ruled out, so whatever is drawn is a valid chunk, and keys and
values are kept, so that a token costs one column.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.fft import idct
from torch import Tensor, nn
from torch.nn import functional as F

from steerlab.agents.pi0.model import Block, Cache, Normalizer, consensus
from steerlab.agents.pi0_fast.tokenizer import BOS, EOS, PAD, UNK, FastTokenizer
from steerlab.errors import InputError

#: Sequences of a batch are sorted by length into so many groups, each cut to its longest.
GROUPS = 4


@dataclass(frozen=True)
class Pi0FastConfig:
    """Size of the network."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    states: int = 4

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InputError(f"width={self.width} must be a multiple of heads={self.heads}")


class Pi0Fast(nn.Module):
    """The language model of chunks.

    A token's place is not its number in the sequence but the number of coefficients spelled before
    it: that says which frequency comes next, whatever was merged. And a token is not only a number
    in a vocabulary: the network sees what it spells, on both ends, so that what it learns about one
    token holds for those that spell nearly the same. Without this it learns the training
    trajectories by heart.

    Args:
        tokenizer: What the tokens mean.
        config: Size of the network.
    """

    lengths: Tensor
    pieces: Tensor
    features: Tensor
    basis: Tensor

    def __init__(self, tokenizer: FastTokenizer, config: Pi0FastConfig = Pi0FastConfig()) -> None:
        super().__init__()
        self.config, self.horizon = config, tokenizer.horizon
        width = config.width
        self.normalizer = Normalizer(config.states, tokenizer.horizon)
        self.encode = nn.Sequential(
            nn.Linear(config.states, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, 2 * width),
            nn.SiLU(),
        )
        self.prefix = nn.Linear(2 * width, width)
        self.condition = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU())
        self.embed = nn.Embedding(tokenizer.vocabulary, width)
        self.place = nn.Embedding(tokenizer.horizon + 1, width)
        for table in (self.embed, self.place):
            nn.init.normal_(table.weight, std=0.1)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.layers))
        self.unembed = nn.Linear(width, tokenizer.vocabulary)
        features = _spelling(tokenizer)
        self.register_buffer("features", features, persistent=False)
        self.read = nn.Linear(features.shape[1], width)
        self.write = nn.Linear(width, features.shape[1])
        self.register_buffer("lengths", torch.as_tensor(tokenizer.lengths), persistent=False)
        self.register_buffer(
            "pieces", torch.as_tensor(tokenizer.pieces, dtype=torch.float32), persistent=False
        )
        basis = idct(np.eye(tokenizer.horizon), norm="ortho") / tokenizer.scale
        self.register_buffer("basis", torch.as_tensor(basis, dtype=torch.float32), persistent=False)

    def context(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network knows of states (B, 4): prefix (B, W) and condition (B, W)."""
        known = self.encode(self.normalizer.state(states))
        return self.prefix(known), self.condition(known)

    def logits(
        self,
        tokens: Tensor,
        places: Tensor,
        context: tuple[Tensor, Tensor],
        past: list[Cache] | None = None,
    ) -> tuple[Tensor, list[Cache]]:
        """Return scores of the next token (B, L, V) after each of ``tokens`` (B, L).

        Args:
            tokens: The sequence so far, or with ``past`` its last token alone.
            places: Coefficients spelled up to and with each token, (B, L).
            context: What :meth:`context` returns.
            past: Keys and values of the tokens before.
        """
        prefix, condition = context
        x = self.embed(tokens) + self.read(self.features[tokens])
        x = x + self.place(places) + prefix.unsqueeze(1)
        caches = []
        for i, block in enumerate(self.blocks):
            x, cache = block(x, condition, past is None, past[i] if past else None)
            caches.append(cache)
        x = F.layer_norm(x, x.shape[-1:])
        return self.unembed(x) + self.write(x) @ self.features.T, caches

    def loss(self, states: Tensor, sequences: Tensor) -> dict[str, Tensor]:
        """Return the cross-entropy in nats a token of states (B, 4), sequences (B, L).

        Padding counts for nothing and, at the end of each group, is not even computed.
        """
        ends = (sequences != PAD).sum(dim=1)
        order = ends.argsort()
        total = states.new_zeros(())
        context = self.context(states)
        for rows in order.chunk(GROUPS):
            part = sequences[rows, : int(ends[rows].max())].long()
            inputs, targets = part[:, :-1], part[:, 1:]
            places = self.lengths[inputs].cumsum(dim=1)
            scores, _ = self.logits(inputs, places, (context[0][rows], context[1][rows]))
            total = total + F.cross_entropy(
                scores.flatten(0, 1), targets.flatten(), ignore_index=PAD, reduction="sum"
            )
        return {"loss": total / (ends - 1).sum()}


def _spelling(tokenizer: FastTokenizer) -> Tensor:
    """Return what each token spells, as features (V, F).

    Its first four integers on four scales, with their squares, so that scores that are linear in the
    features can be those of a normal density, wide or narrow; and how many integers there are.
    """
    count = np.arange(4) < tokenizer.lengths[:, None]
    width = max(4, tokenizer.pieces.shape[1])
    integers = np.zeros((tokenizer.vocabulary, width))
    integers[:, : tokenizer.pieces.shape[1]] = tokenizer.pieces
    scaled = np.tanh(integers[:, :4, None] / np.array([1.0, 3.0, 10.0, 30.0])) * count[..., None]
    parts = [scaled, scaled**2, count[..., None]]
    flat = np.concatenate([p.reshape(len(count), -1) for p in parts], axis=1)
    return torch.as_tensor(
        np.column_stack([flat, np.log1p(tokenizer.lengths)]), dtype=torch.float32
    )


class ChunkDecoder(nn.Module):
    """States to chunks, as one module to call or to export.

    Draws ``samples`` sequences for every state and returns their
    :func:`~steerlab.agents.pi0.model.consensus`, which averages out chance and rounding alike. With
    ``samples=1`` the likeliest token is taken each time.

    Args:
        model: Trained network.
        samples: Sequences drawn for a state.
        longest: Tokens after which a sequence ends; missing coefficients are zero.
        temperature: Scores are divided by it.
    """

    def __init__(
        self, model: Pi0Fast, samples: int = 16, longest: int = 16, temperature: float = 1.0
    ) -> None:
        super().__init__()
        if samples < 1 or longest < 1 or not temperature > 0:
            raise InputError(
                f"samples={samples} and longest={longest} must be at least 1, "
                f"temperature={temperature} above 0"
            )
        self.model, self.samples, self.longest = model, samples, longest
        self.temperature = temperature

    def forward(self, state: Tensor, uniforms: Tensor) -> Tensor:
        """Return chunks (B, H).

        Args:
            state: (B, 4).
            uniforms: Random numbers in [0, 1), (B, samples, longest); see :func:`stratified`.
        """
        return consensus(self.draw(state, uniforms)[0])

    def draw(self, state: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chunks (B, samples, H) and their tokens (B, samples, longest)."""
        model = self.model
        draws = uniforms.flatten(0, 1)
        prefix, condition = (c.repeat_interleave(self.samples, dim=0) for c in model.context(state))
        token = torch.full_like(draws[:, 0], BOS, dtype=torch.long)
        used = torch.zeros_like(token)
        places = torch.arange(model.horizon, device=state.device)
        integers = draws.new_zeros((draws.shape[0], model.horizon))  # len() would fix it at export
        barred = torch.zeros_like(model.lengths, dtype=torch.bool)
        barred[[BOS, PAD, UNK]] = True
        past: list[Cache] | None = None
        tokens = []
        open_ = torch.ones_like(token, dtype=torch.bool)
        for step in range(self.longest):
            scores, past = model.logits(token[:, None], used[:, None], (prefix, condition), past)
            ruled_out = barred | (model.lengths > (model.horizon - used)[:, None])
            scores = scores[:, 0].masked_fill(ruled_out, -torch.inf)
            token = self._choose(scores, draws[:, step])
            token = torch.where(open_, token, torch.full_like(token, PAD))
            tokens.append(token)
            # Where in the chunk each coefficient of the token goes; the end sign has none.
            within = places - used[:, None]
            here = (within >= 0) & (within < model.lengths[token][:, None])
            pieces = model.pieces[token]
            spelled = pieces.gather(1, within.clamp(0, pieces.shape[1] - 1))
            integers = integers + torch.where(here, spelled, torch.zeros_like(spelled))
            used = used + model.lengths[token]
            open_ = open_ & (token != EOS)
            if not torch.compiler.is_exporting() and not bool(open_.any()):
                break
        chunks = integers @ model.basis
        shape = (-1, self.samples)
        return chunks.unflatten(0, shape), torch.stack(tokens, dim=1).unflatten(0, shape)

    def _choose(self, scores: Tensor, draws: Tensor) -> Tensor:
        if self.samples == 1:
            return scores.argmax(dim=-1)
        mass = (scores / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        below = mass <= (draws[:, None] * mass[:, -1:])
        return below.sum(dim=-1).clamp_max(mass.shape[-1] - 1)


def stratified(count: int, samples: int, longest: int, rng: np.random.Generator) -> Tensor:
    """Return random numbers (count, samples, longest) that are spread evenly over the samples.

    In each column every one of ``samples`` equal parts of [0, 1) is hit once, in random order: the
    samples cover the distribution better than independent ones.
    """
    order = rng.permuted(
        np.broadcast_to(np.arange(samples)[:, None], (count, samples, longest)), axis=1
    )
    return torch.as_tensor((order + rng.random(order.shape)) / samples, dtype=torch.float32)


def pi0_fast_loss(
    model: nn.Module, batch: dict[str, Any], rng: torch.Generator
) -> dict[str, Tensor]:
    """Adapt :meth:`Pi0Fast.loss` to the shared training loop."""
    assert isinstance(model, Pi0Fast)
    return model.loss(batch["state"], batch["tokens"])
