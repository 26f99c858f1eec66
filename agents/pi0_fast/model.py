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

    def logits(self, tokens: Tensor, places: Tensor, context: tuple[Tensor, Tensor]) -> Tensor:
        """Return scores of the next token (B, L, V) after each of ``tokens`` (B, L).

        Args:
            tokens: The sequence so far.
            places: Coefficients spelled up to and with each token, (B, L).
            context: What :meth:`context` returns.
        """
        prefix, condition = context
        x = self.embed(tokens) + self.read(self.features[tokens])
        x = x + self.place(places) + prefix.unsqueeze(1)
        for block in self.blocks:
            x = block(x, condition, causal=True)
        x = F.layer_norm(x, x.shape[-1:])
        return self.unembed(x) + self.write(x) @ self.features.T

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
            scores = self.logits(inputs, places, (context[0][rows], context[1][rows]))
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

    What depends on the weights alone is worked out once, so the weights must not change afterwards.

    Args:
        model: Trained network.
        samples: Sequences drawn for a state.
        longest: Tokens after which a sequence ends; missing coefficients are zero.
        temperature: Scores are divided by it.
    """

    table: Tensor
    read_weight: Tensor
    read_bias: Tensor
    allowed: Tensor

    def __init__(
        self, model: Pi0Fast, samples: int = 16, longest: int = 14, temperature: float = 1.0
    ) -> None:
        super().__init__()
        if samples < 1 or longest < 1 or not temperature > 0:
            raise InputError(
                f"samples={samples} and longest={longest} must be at least 1, "
                f"temperature={temperature} above 0"
            )
        self.model, self.samples, self.longest = model, samples, longest
        with torch.no_grad():
            features, write = model.features, model.write
            table = model.embed.weight + model.read(features)
            weight = (model.unembed.weight + features @ write.weight) / temperature
            bias = (model.unembed.bias + features @ write.bias) / temperature
            left = model.horizon - torch.arange(model.horizon + 1, device=features.device)
            barred = model.lengths > left[:, None]
            barred[:, [BOS, PAD, UNK]] = True
            allowed = torch.zeros(barred.shape, device=features.device)
            allowed = allowed.masked_fill(barred, -torch.inf)
        for name, values in (
            ("table", table), ("read_weight", weight), ("read_bias", bias), ("allowed", allowed)
        ):  # fmt: skip
            self.register_buffer(name, values, persistent=False)

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
        # A sum of probabilities may round to a little less than one.
        draws = uniforms.flatten(0, 1).clamp_max(0.9999)
        prefix, condition = (c.repeat_interleave(self.samples, dim=0) for c in model.context(state))
        scales = [block.scales(condition) for block in model.blocks]  # type: ignore[operator]
        token = torch.full_like(draws[:, 0], BOS, dtype=torch.long)
        used = torch.zeros_like(token)
        ended = torch.zeros_like(token, dtype=torch.bool)
        past: list[Cache] | None = None
        drawn = []
        for step in range(self.longest):
            scores, past = self.column(token, used, prefix, scales, past)
            token = self._choose(scores + self.allowed[used], draws[:, step])
            used = used + model.lengths[token]
            drawn.append(token)
            if not torch.compiler.is_exporting():
                ended = ended | (token == EOS)
                if bool(ended.all()):
                    break
        tokens = torch.stack(drawn, dim=1)
        ends = tokens == EOS  # what comes after the first of them counts for nothing
        over = (ends.long().cumsum(dim=1) - ends.long()) > 0
        tokens = torch.where(over, torch.full_like(tokens, PAD), tokens)
        chunks = self._spell(tokens) @ model.basis
        shape = (-1, self.samples)
        return chunks.unflatten(0, shape), tokens.unflatten(0, shape)

    def column(
        self,
        token: Tensor,
        used: Tensor,
        prefix: Tensor,
        scales: list[list[Tensor]],
        past: list[Cache] | None,
    ) -> tuple[Tensor, list[Cache]]:
        """Return scores of the next token (R, V), and keys and values: the last column alone.

        Args:
            token: The last token of each sequence (R,).
            used: Coefficients spelled up to and with it, (R,).
            prefix: What the network knows of the state, (R, W).
            scales: How the state steers each block.
            past: Keys and values of the tokens before.
        """
        x = self.table[token] + self.model.place(used) + prefix
        caches = []
        for i, block in enumerate(self.model.blocks):
            assert isinstance(block, Block)
            x, cache = block.column(x, scales[i], past[i] if past else None)
            caches.append(cache)
        x = F.layer_norm(x, x.shape[-1:])
        return F.linear(x, self.read_weight, self.read_bias), caches

    def _choose(self, scores: Tensor, draws: Tensor) -> Tensor:
        if self.samples == 1:
            return scores.argmax(dim=-1)
        mass = scores.softmax(dim=-1).cumsum(dim=-1)
        return (mass <= draws[:, None]).to(mass.dtype).sum(dim=-1).long()

    def _spell(self, tokens: Tensor) -> Tensor:
        """Return the integers (R, H) that tokens (R, L) spell; what they leave out is zero."""
        model = self.model
        lengths = model.lengths[tokens]
        ends = lengths.cumsum(dim=1)
        places = torch.arange(model.horizon, device=tokens.device)
        # The token at a place is the first that ends behind it.
        which = (ends[:, None, :] <= places[:, None]).sum(dim=-1)
        inside = which < tokens.shape[1]
        which = which.clamp_max(tokens.shape[1] - 1)
        within = places - (ends - lengths).gather(1, which)
        width = model.pieces.shape[1]
        flat = tokens.gather(1, which) * width + within.clamp(0, width - 1)
        return torch.where(inside, model.pieces.flatten()[flat], 0.0)


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
