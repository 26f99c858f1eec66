"""The published tiny pi0 and pi0-FAST: their networks and sampling, for their own checkpoints.

Names and shapes are those of the twenty checkpoints of github.com/ruiming-wu/FAST_Flow_Matching (ten a
kind, ``train/trained_models``), so that they are evaluated beside ours as they are, causal attention and
ten Euler steps included. Nothing here is trained: train-pi0 and train-pi0-fast have other networks.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.fft import idct
from torch import Tensor, nn

from steerlab.agents.foreign_weights import read_weights
from steerlab.errors import InputError
from steerlab.readers.text import entry, read_json
from steerlab.types import Array

WIDTH, LAYERS, HEADS, HIDDEN = 128, 4, 4, 256
CHUNK, STEPS, LARGEST_NOISE = 50, 10, 3.0
VOCABULARY, LONGEST, SCALE = 256, 25, 10.0
BOS, EOS, PAD, UNK = range(4)
SPECIAL = ("[BOS]", "[EOS]", "[PAD]", "[UNK]")
#: Where the repository has its checkpoints and the vocabulary.
MODELS, TOKENIZER = "train/trained_models", "fast/tokenizer/fast_tokenizer.json"


class PublishedPi0(nn.Module):
    """The published flow network; the state is the first token, one token an action, all causal."""

    def __init__(self) -> None:
        super().__init__()
        self.state_embedding = nn.Linear(4, WIDTH)
        self.action_embedding = nn.Linear(1, WIDTH)
        self.time_embedding = nn.Linear(1, WIDTH)
        self.position_embedding = nn.Embedding(CHUNK + 1, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, HIDDEN, activation="gelu", batch_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, LAYERS)
        self.flow_output = nn.Linear(WIDTH, 1)

    def flow(self, state: Tensor, x: Tensor, time: float) -> Tensor:
        """Return the flow (B, 50) at ``x`` (B, 50) and a time from 0, noise, to 1."""
        actions = self.action_embedding(x[..., None])
        actions = actions + self.time_embedding(x.new_full((1, 1, 1), time))
        tokens = torch.cat([self.state_embedding(state)[:, None], actions], dim=1)
        tokens = tokens + self.position_embedding.weight
        tokens = self.transformer(tokens, mask=_causal(tokens))
        flow: Tensor = self.flow_output(tokens[:, 1:])[..., 0]
        return flow

    def forward(self, state: Tensor, noise: Tensor) -> Tensor:
        """Return chunks (B, 50) of states (B, 4) by ten Euler steps from ``noise`` (B, 50)."""
        x = noise.clamp(-LARGEST_NOISE, LARGEST_NOISE)
        for step in range(STEPS):
            x = x + self.flow(state, x, step / STEPS) / STEPS
        return x


class PublishedPi0Fast(nn.Module):
    """The published token network; the state is all that the tokens attend to beside themselves.

    Args:
        spelled: The integers that each token stands for; those of the four signs are none.
    """

    def __init__(self, spelled: list[list[int]]) -> None:
        super().__init__()
        self.spelled = spelled
        self.state_embedding = nn.Linear(4, WIDTH)
        self.token_embedding = nn.Embedding(VOCABULARY, WIDTH, padding_idx=PAD)
        self.position_embedding = nn.Embedding(LONGEST, WIDTH)
        layer = nn.TransformerDecoderLayer(
            WIDTH, HEADS, HIDDEN, activation="gelu", batch_first=True
        )
        self.transformer = nn.TransformerDecoder(layer, LAYERS)
        self.output_layer = nn.Linear(WIDTH, VOCABULARY)

    def scores(self, state: Tensor, tokens: Tensor) -> Tensor:
        """Return scores of the next token (B, 256) after ``tokens`` (B, L)."""
        x = self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]
        x = self.transformer(
            x,
            self.state_embedding(state)[:, None],
            tgt_mask=_causal(x),
            tgt_key_padding_mask=tokens == PAD,
        )
        scores: Tensor = self.output_layer(x[:, -1])
        return scores

    def tokens(self, state: Tensor) -> Tensor:
        """Return the likeliest tokens (B, L) one by one, up to EOS and padding, L at most 25."""
        tokens = torch.full((len(state), 1), BOS, device=state.device)
        ended = torch.zeros(len(state), dtype=torch.bool, device=state.device)
        while tokens.shape[1] < LONGEST and not bool(ended.all()):
            chosen = self.scores(state, tokens).argmax(dim=-1).masked_fill(ended, PAD)
            ended = ended | (chosen == EOS)
            tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        return tokens

    def forward(self, state: Tensor) -> Tensor:
        """Return chunks (B, 50) of states (B, 4): what the tokens spell, filled up with zeros."""
        coefficients = np.zeros((len(state), CHUNK))
        for row, sequence in enumerate(self.tokens(state).tolist()):
            values = [v for token in sequence for v in self.spelled[token]][:CHUNK]
            coefficients[row, : len(values)] = values
        chunks = idct(coefficients / SCALE, norm="ortho")
        return torch.as_tensor(chunks, dtype=state.dtype, device=state.device)


def load_published(
    folder: str | Path, device: torch.device
) -> dict[str, dict[str, PublishedPi0 | PublishedPi0Fast]]:
    """Return the published models by kind (``pi0``, ``pi0-FAST``) and name of the file.

    Args:
        folder: A copy of the repository, or a folder with its checkpoints and, for pi0-FAST, its
            ``fast_tokenizer.json``.
        device: Where they compute.

    Raises:
        InputError: There are none, or a file is damaged, a Git LFS pointer or another model's.
    """
    folder = Path(folder).expanduser()
    places = folder / MODELS if (folder / MODELS).is_dir() else folder
    plain, fast = (sorted(places.glob(f"{kind}_*.pth")) for kind in ("tinypi0", "tinypi0fast"))
    if not plain and not fast:
        raise InputError(
            f"{str(folder)!r} has no tinypi0_*.pth and no tinypi0fast_*.pth; give a copy of the "
            f"published repository or its folder {MODELS}"
        )
    found: dict[str, dict[str, PublishedPi0 | PublishedPi0Fast]] = {}
    if plain:
        found["pi0"] = {p.stem: _loaded(PublishedPi0(), p, device) for p in plain}
    if fast:
        vocabulary = folder / TOKENIZER
        spelled = read_vocabulary(
            vocabulary if vocabulary.is_file() else places / Path(TOKENIZER).name
        )
        found["pi0-FAST"] = {p.stem: _loaded(PublishedPi0Fast(spelled), p, device) for p in fast}
    return found


def _loaded(
    model: PublishedPi0 | PublishedPi0Fast, path: Path, device: torch.device
) -> PublishedPi0 | PublishedPi0Fast:
    model.load_state_dict(read_weights(path, model, "the published checkpoint"))
    return model.to(device).eval()


def read_vocabulary(path: str | Path) -> list[list[int]]:
    """Return the integers that each of the 256 published tokens stands for.

    Raises:
        InputError: There is no such file, or it is no such vocabulary.
    """
    source = repr(str(path))
    words = entry(read_json(path, dict), "vocab", dict, source)
    numbers = list(words.values())
    if not all(type(n) is int for n in numbers) or sorted(numbers) != list(range(VOCABULARY)):
        raise InputError(f"{source}: vocab must number its {VOCABULARY} tokens from 0 on")
    if [words.get(sign) for sign in SPECIAL] != list(range(4)):
        raise InputError(f"{source}: vocab must begin with {', '.join(SPECIAL)}")
    spelled: list[list[int]] = [[] for _ in numbers]
    for word, number in words.items():
        if word not in SPECIAL:
            try:
                spelled[number] = [int(part) for part in word.split(",")]
            except ValueError as error:
                raise InputError(
                    f"{source}: the token {word[:40]!r} must be integers between commas"
                ) from error
    if any(len(values) > CHUNK or max(map(abs, values), default=0) > 10**4 for values in spelled):
        raise InputError(f"{source}: a token spells more than a chunk, or beyond 10,000")
    return spelled


def published_policy(
    model: PublishedPi0 | PublishedPi0Fast, seed: int, device: torch.device
) -> Callable[[Array], Array]:
    """Return a model as a map from states (N, 4) to chunks (N, 50), with noise of its own."""
    rng = np.random.default_rng(seed)

    @torch.no_grad()
    def chunks(states: Array) -> Array:
        inputs = [torch.as_tensor(states, dtype=torch.float32, device=device)]
        if isinstance(model, PublishedPi0):
            noise = rng.standard_normal((len(states), CHUNK))
            inputs.append(torch.as_tensor(noise, dtype=torch.float32, device=device))
        return np.asarray(model(*inputs).double().cpu().numpy())

    return chunks


def _causal(x: Tensor) -> Tensor:
    """Return what each of the tokens ``x`` (B, L, W) must not see, (L, L)."""
    length = x.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
