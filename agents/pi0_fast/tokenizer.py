"""The FAST action tokenizer: cosine transform, rounding, byte-pair encoding.

Follows "FAST: Efficient Action Tokenization for Vision-Language-Action Models"
(arXiv 2501.09747): an orthonormal DCT-II of the chunk, its coefficients times a scale and rounded,
and the integers, lowest frequency first, merged to tokens. Three things differ from the published
code: every integer that can occur is in the alphabet, so nothing is unknown and dropped; the zeros
at the end are left out and filled in at decoding, so that any sequence of tokens is a chunk; and
merges are applied in the order they were learned.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct, idct

from steerlab.errors import InputError
from steerlab.files import atomic_path
from steerlab.readers.text import entry, parse_json, read_json

BOS, EOS, PAD, UNK = range(4)
SPECIAL = ("<bos>", "<eos>", "<pad>", "<unk>")
#: Scale of the rounding and size of the vocabulary.
PRESETS = {"seed": (10.0, 256), "fine": (15.0, 512)}
_FIRST_CHARACTER = 0x4E00  # a block of 20,000 letters without combining marks or spaces


class FastTokenizer:
    """Chunks of actions to tokens and back.

    Args:
        scale: Coefficients are rounded to multiples of 1 / scale.
        horizon: Actions of a chunk.
        low: Smallest integer that a coefficient is limited to.
        high: Largest one.
        bpe: JSON of the trained ``tokenizers.Tokenizer``.
    """

    def __init__(self, scale: float, horizon: int, low: int, high: int, bpe: str) -> None:
        self.scale, self.horizon, self.low, self.high = scale, horizon, low, high
        self._json = bpe
        self._bpe = _library().Tokenizer.from_str(bpe)
        vocabulary = self._bpe.get_vocab()
        self.vocabulary = len(vocabulary)
        spelled = {
            i: [] if i < len(SPECIAL) else _integers(text, low) for text, i in vocabulary.items()
        }
        longest = max(len(s) for s in spelled.values())
        #: Number of coefficients of each token, (V,), and the coefficients, (V, longest).
        self.lengths = np.array([len(spelled[i]) for i in range(self.vocabulary)])
        self.pieces = np.zeros((self.vocabulary, longest), dtype=np.int64)
        for i, values in spelled.items():
            self.pieces[i, : len(values)] = values

    @classmethod
    def train(
        cls, chunks: NDArray[np.floating[Any]], scale: float = 15.0, vocabulary: int = 512
    ) -> "FastTokenizer":
        """Learn the merges on chunks (N, H).

        The alphabet is every integer between the smallest and the largest of the training data;
        what lies outside later is limited to it.

        Raises:
            InputError: The vocabulary has no room for the alphabet, or an argument is out of range.
        """
        _check_chunks(chunks)
        if not scale > 0:
            raise InputError(f"scale={scale} must be positive")
        integers = np.round(dct(chunks, norm="ortho") * scale).astype(np.int64)
        low, high = min(int(integers.min()), 0), max(int(integers.max()), 0)
        needed = len(SPECIAL) + high - low + 1
        if vocabulary < needed:
            raise InputError(
                f"vocabulary={vocabulary} is too small for the {needed} integers and signs of "
                f"scale={scale:g}; choose a larger vocabulary or a smaller scale"
            )
        library = _library()
        bpe = library.Tokenizer(library.models.BPE())
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=[_letter(i - low) for i in range(low, high + 1)],
            show_progress=False,
        )
        bpe.train_from_iterator(_words(integers, low), trainer=trainer)
        return cls(scale, chunks.shape[1], low, high, bpe.to_str())

    def quantize(self, chunks: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Return the rounded and limited coefficients (N, H) of ``chunks`` (N, H)."""
        _check_chunks(chunks, self.horizon)
        integers = np.round(dct(chunks, norm="ortho") * self.scale).astype(np.int64)
        return np.clip(integers, self.low, self.high)

    def restore(self, integers: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Return the chunks (N, H) of coefficients (N, H)."""
        return np.asarray(idct(integers / self.scale, norm="ortho"))

    def encode(self, chunks: NDArray[np.floating[Any]]) -> list[list[int]]:
        """Return the tokens of each chunk of (N, H), without start and end signs."""
        words = _words(self.quantize(chunks), self.low)
        return [encoding.ids for encoding in self._bpe.encode_batch(words)]

    def decode(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Return the chunks (N, H) of token sequences; signs are skipped, the rest is zeros.

        Raises:
            InputError: A sequence holds a number that is no token, or too many coefficients.
        """
        integers = np.zeros((len(tokens), self.horizon), dtype=np.int64)
        for row, sequence in enumerate(tokens):
            ids = np.asarray(sequence, dtype=np.int64)
            if ids.size and not (ids.min() >= 0 and ids.max() < self.vocabulary):
                raise InputError(f"tokens must be in 0..{self.vocabulary - 1}: {ids.tolist()}")
            values = [v for i in ids for v in self.pieces[i, : self.lengths[i]]]
            if len(values) > self.horizon:
                raise InputError(
                    f"tokens {ids.tolist()} spell {len(values)} coefficients, "
                    f"a chunk has {self.horizon}"
                )
            integers[row, : len(values)] = values
        return self.restore(integers)

    def sequences(self, chunks: NDArray[np.floating[Any]]) -> NDArray[np.int32]:
        """Return start sign, tokens, end sign and padding of each chunk, (N, longest + 2)."""
        encoded = self.encode(chunks)
        padded = np.full((len(encoded), max(map(len, encoded)) + 2), PAD, dtype=np.int32)
        for row, tokens in enumerate(encoded):
            padded[row, : len(tokens) + 2] = [BOS, *tokens, EOS]
        return padded

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that :meth:`from_dict` makes the same tokenizer of."""
        return {
            "scale": self.scale,
            "horizon": self.horizon,
            "low": self.low,
            "high": self.high,
            "bpe": self._json,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FastTokenizer":
        """Return the tokenizer that :meth:`to_dict` described."""
        try:
            vocabulary = _check_bpe(values["bpe"])
            _check_range(values, vocabulary)
            return cls(**values)
        except InputError:
            raise
        except Exception as error:  # the library raises bare Exceptions
            raise InputError(f"not a FAST tokenizer ({error}); train it again") from error

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as JSON, with a checksum."""
        values = self.to_dict()
        with atomic_path(path) as temporary:
            temporary.write_text(
                json.dumps(values | {"sha256": _checksum(values)}), encoding="utf-8"
            )

    @classmethod
    def load(cls, path: str | Path) -> "FastTokenizer":
        """Read what :meth:`save` wrote.

        Raises:
            InputError: There is no such file, or it holds no tokenizer.
        """
        try:
            values = read_json(path, dict)
        except InputError as error:
            raise InputError(
                f"cannot read the tokenizer {str(path)!r}: {error}; run generate-pendulum-data"
            ) from error
        known = values.pop("sha256", None)
        if known is not None and known != _checksum(values):
            raise InputError(
                f"{str(path)!r} is damaged: it does not have its checksum; run generate-pendulum-data"
            )
        return cls.from_dict(values)


def _checksum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _check_range(values: dict[str, Any], vocabulary: dict[str, int]) -> None:
    """Refuse numbers out of range, and tokens that spell anything else than coefficients.

    Raises:
        InputError: There is one.
    """
    source = "a FAST tokenizer"
    scale = entry(values, "scale", (int, float), source)
    horizon, low, high = (entry(values, n, int, source) for n in ("horizon", "low", "high"))
    if not (0 < scale < 1e9 and 1 <= horizon <= 10_000 and -20_000 < low <= 0 <= high < 20_000):
        raise InputError(
            f"not a FAST tokenizer: scale={scale}, horizon={horizon}, low={low}, high={high}"
        )
    letters = {_letter(i - low) for i in range(low, high + 1)}
    tokens = [text for text, i in vocabulary.items() if i >= len(SPECIAL)]
    if any(not text or len(text) > horizon or not letters.issuperset(text) for text in tokens):
        raise InputError("not a FAST tokenizer: a token spells no coefficients; train it again")


def _check_bpe(text: Any) -> dict[str, int]:
    """Return the vocabulary of what :meth:`FastTokenizer.train` writes; refuse everything else.

    The library would abort the process at some of it.

    Raises:
        InputError: A setting is another, or vocabulary and merges do not fit each other.
    """
    if not isinstance(text, str):
        raise InputError("not a FAST tokenizer: 'bpe' is no text; train it again")
    found = parse_json(text, "'bpe' of a tokenizer")
    library = _library()
    pattern = json.loads(library.Tokenizer(library.models.BPE()).to_str())
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    pattern["added_tokens"] = [
        {"id": i, "content": sign, **special, "special": True} for i, sign in enumerate(SPECIAL)
    ]
    vocabulary, merges = (
        entry(entry(found, "model", dict, "'bpe'"), name, kind, "'bpe'")
        for name, kind in (("vocab", dict), ("merges", list))
    )
    pattern["model"] |= {"vocab": vocabulary, "merges": merges}
    if found != pattern:
        raise InputError("not a FAST tokenizer: its settings are others; train it again")
    numbers = list(vocabulary.values())
    pairs = [tuple(m) for m in merges if isinstance(m, list) and len(m) == 2]
    known = all(
        isinstance(a, str) and isinstance(b, str) and {a, b, a + b} <= vocabulary.keys()
        for a, b in pairs
    )
    whole = all(type(n) is int for n in numbers) and sorted(numbers) == list(range(len(numbers)))
    if not (known and whole and len(pairs) == len(merges)):
        raise InputError("not a FAST tokenizer: merges and vocabulary do not fit; train it again")
    return dict(vocabulary)


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise InputError(
            'pi0-FAST needs the tokenizers library: pip install "steerlab[tokenizers]"'
        ) from error
    return tokenizers


def _letter(index: int) -> str:
    return chr(_FIRST_CHARACTER + index)


def _integers(text: str, low: int) -> list[int]:
    return [ord(letter) - _FIRST_CHARACTER + low for letter in text]


def _words(integers: NDArray[np.int64], low: int) -> list[str]:
    """Return each row as a word of one letter an integer, without the zeros at its end."""
    ends = integers.shape[1] - (integers[:, ::-1] != 0).argmax(axis=1)
    ends[(integers == 0).all(axis=1)] = 0
    return [
        "".join(map(_letter, row[:end]))
        for row, end in zip((integers - low).tolist(), ends, strict=True)
    ]


def _check_chunks(chunks: NDArray[Any], horizon: int | None = None) -> None:
    if chunks.ndim != 2 or not len(chunks) or (horizon and chunks.shape[1] != horizon):
        raise InputError(f"chunks have shape {chunks.shape}, need (N, {horizon or 'H'})")
    if not np.isfinite(chunks).all():
        raise InputError("a chunk holds a number that is not finite; remove it")
