"""The published pendulum models: their files as they are, beside a plain reference of their networks."""

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import idct
from torch import Tensor
from torch.nn import functional as F

from steerlab.agents.inverted_pendulum.published import (
    PublishedPi0Fast,
    load_published,
    published_policy,
    read_vocabulary,
)
from steerlab.errors import InputError
from tests.agents.inverted_pendulum.published_files import (
    CROSS,
    FAST,
    LAYER,
    PI0,
    VOCABULARY,
    weights,
    write_repository,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("published"), 2)


def attend(w: dict[str, Tensor], at: str, x: Tensor, seen: Tensor, causal: bool) -> Tensor:
    """Attention of four heads, head by head, for one row (L, 128)."""
    q, k, v = (
        source @ part.T + bias
        for source, part, bias in zip(
            (x, seen, seen), w[f"{at}.in_proj_weight"].chunk(3), w[f"{at}.in_proj_bias"].chunk(3),
            strict=True,
        )
    )  # fmt: skip
    heads = []
    for h in range(4):
        part = slice(32 * h, 32 * h + 32)
        scores = q[:, part] @ k[:, part].T / math.sqrt(32)
        if causal:
            for i in range(len(x)):
                scores[i, i + 1 :] = -math.inf
        heads.append(scores.softmax(-1) @ v[:, part])
    return torch.cat(heads, 1) @ w[f"{at}.out_proj.weight"].T + w[f"{at}.out_proj.bias"]


def norm(w: dict[str, Tensor], at: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, (128,), w[f"{at}.weight"], w[f"{at}.bias"])


def feed(w: dict[str, Tensor], at: str, x: Tensor) -> Tensor:
    hidden = F.gelu(x @ w[f"{at}.linear1.weight"].T + w[f"{at}.linear1.bias"])
    return hidden @ w[f"{at}.linear2.weight"].T + w[f"{at}.linear2.bias"]


def linear(w: dict[str, Tensor], at: str, x: Tensor) -> Tensor:
    return x @ w[f"{at}.weight"].T + w[f"{at}.bias"]


def reference_pi0(w: dict[str, Tensor], state: Tensor, noise: Tensor) -> Tensor:
    x = noise.clamp(-3, 3)
    for step in range(10):
        tokens = [linear(w, "state_embedding", state)]
        moment = linear(w, "time_embedding", torch.tensor([step / 10]))
        tokens += [linear(w, "action_embedding", a[None]) + moment for a in x]
        y = torch.stack(tokens) + w["position_embedding.weight"]
        for i in range(4):
            at = f"transformer.layers.{i}"
            y = norm(w, f"{at}.norm1", y + attend(w, f"{at}.self_attn", y, y, True))
            y = norm(w, f"{at}.norm2", y + feed(w, at, y))
        x = x + linear(w, "flow_output", y[1:])[:, 0] / 10
    return x


def reference_fast(w: dict[str, Tensor], state: Tensor) -> tuple[list[int], np.ndarray]:
    words = {number: word for word, number in VOCABULARY.items()}
    tokens, memory = [0], linear(w, "state_embedding", state)[None]
    while len(tokens) < 25 and tokens[-1] != 1:
        y = w["token_embedding.weight"][tokens] + w["position_embedding.weight"][: len(tokens)]
        for i in range(4):
            at = f"transformer.layers.{i}"
            y = norm(w, f"{at}.norm1", y + attend(w, f"{at}.self_attn", y, y, True))
            y = norm(w, f"{at}.norm2", y + attend(w, f"{at}.multihead_attn", y, memory, False))
            y = norm(w, f"{at}.norm3", y + feed(w, at, y))
        tokens.append(int(linear(w, "output_layer", y[-1]).argmax()))
    values = [int(p) for t in tokens if t > 3 for p in words[t].split(",")][:50]
    return tokens, idct(np.array(values + [0] * (50 - len(values))) / 10, norm="ortho")


def test_both_kinds_side_by_side(repository: Path) -> None:
    found = load_published(repository, CPU)
    assert {kind: list(members) for kind, members in found.items()} == {
        "pi0": ["tinypi0_20250619_0000", "tinypi0_20250619_0001"],
        "pi0-FAST": ["tinypi0fast_20250624_0000", "tinypi0fast_20250624_0001"],
    }
    sizes = {
        k: sum(p.numel() for p in next(iter(m.values())).parameters()) for k, m in found.items()
    }
    assert sizes == {"pi0": 537_729, "pi0-FAST": 864_768}  # as published
    states = torch.tensor([[0.1, -0.05, 0.2, 0.0], [-0.3, 0.02, 0.0, 0.4]])
    noise = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)) * 2
    with torch.no_grad():
        for i in range(2):
            w = weights(PI0, LAYER, i)
            plain = found["pi0"][f"tinypi0_20250619_000{i}"](states, noise)
            for row in range(2):
                expected = reference_pi0(w, states[row], noise[row])
                torch.testing.assert_close(plain[row], expected, rtol=1e-3, atol=1e-4)
            w = weights(FAST, LAYER | CROSS, i)
            fast = found["pi0-FAST"][f"tinypi0fast_20250624_000{i}"]
            assert isinstance(fast, PublishedPi0Fast)
            tokens, chunks = fast.tokens(states).tolist(), fast(states).numpy()
            for row in range(2):
                wanted, chunk = reference_fast(w, states[row])
                assert tokens[row][: len(wanted)] == wanted
                assert set(tokens[row][len(wanted) :]) <= {2}
                np.testing.assert_allclose(chunks[row], chunk, atol=1e-6)


def test_policies_draw_by_their_seed(repository: Path) -> None:
    (model, *_) = load_published(repository, CPU)["pi0"].values()
    states = np.zeros((3, 4))
    first, again, other = (published_policy(model, seed, CPU)(states) for seed in (0, 0, 1))
    assert first.shape == (3, 50)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def _damaged(kind: str, path: Path) -> None:
    good = weights(PI0, LAYER, 0)
    if kind == "pickle":
        torch.save({"state_embedding.weight": Evil()}, path)
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "pointer":
        path.write_bytes(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:"
            + b"0" * 64
            + b"\nsize 2172673\n"
        )
    elif kind == "missing":
        torch.save({k: v for k, v in good.items() if k != "flow_output.bias"}, path)
    elif kind == "shape":
        torch.save(good | {"flow_output.weight": torch.zeros(2, 128)}, path)
    elif kind == "type":
        torch.save(good | {"flow_output.bias": torch.zeros(1, dtype=torch.float64)}, path)
    elif kind == "nan":
        torch.save(good | {"flow_output.bias": torch.tensor([math.nan])}, path)
    else:
        torch.save(good, path)
        path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pickle", "no file of weights alone"),
        ("plain pickle", "no file of weights alone"),
        ("cut", "no file of weights alone"),
        ("pointer", "Git LFS pointer for a file of 2,172,673 bytes"),
        ("missing", "of another model: it differs in flow_output.bias"),
        ("shape", r"flow_output\.weight is \(2, 128\) torch\.float32, not \(1, 128\)"),
        ("type", r"flow_output\.bias is \(1,\) torch\.float64, not"),
        ("nan", "flow_output.bias holds numbers that are not finite"),
    ],
)
def test_files_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _damaged(kind, tmp_path / "tinypi0_1.pth")
    with pytest.raises(InputError, match=message):
        load_published(tmp_path, CPU)
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0": 7}, "number its 256 tokens"),
        ({"[PAD]": 3, "[UNK]": 2}, r"begin with \[BOS\]"),
        ({"0": None, "zero": VOCABULARY["0"]}, "'zero' must be integers"),
        ({"0": None, "9" * 6: VOCABULARY["0"]}, "beyond 10,000"),
        ({"0": None, ",".join(["0"] * 51): VOCABULARY["0"]}, "more than a chunk"),
    ],
)
def test_vocabularies_that_are_none(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    words = {k: v for k, v in (VOCABULARY | change).items() if v is not None}
    (tmp_path / "v.json").write_text(json.dumps({"vocab": words}))
    with pytest.raises(InputError, match=message):
        read_vocabulary(tmp_path / "v.json")


def test_nothing_there(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(InputError, match=r"no tinypi0_\*\.pth and no tinypi0fast_"):
        load_published(tmp_path, CPU)
    only = repository / "train" / "trained_models"
    with pytest.raises(InputError, match=r"fast_tokenizer\.json"):
        load_published(only, CPU)  # the vocabulary lies elsewhere
