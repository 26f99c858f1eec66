"""Sequences with labels, and the windows of them that a plant is trained on.

Step t of a sequence has a state (steer, roll, speed, acceleration) and a token, its lateral
acceleration. A plant predicts token t from the states up to t and the tokens up to t - 1, 20 of
each, as the simulator asks it to. Labels are hard (the token that came) or soft (a teacher's
distribution). Of a soft label a band of 128 bins is kept. Some rows in a hundred are wider than
that, at the limits of the steer above all; those are kept as 128 cells of 8 bins, so that the
student learns how much the teacher does not know, too.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steerlab.errors import InputError, unknown_name
from steerlab.readers.arrays import read_arrays, require, write_arrays
from steerlab.surrogates.logs.extract import COLUMNS
from steerlab.surrogates.logs.pipeline import load_identified
from steerlab.surrogates.plants.base import CONTEXT, Plant
from steerlab.surrogates.plants.tokens import VOCABULARY, encode
from steerlab.surrogates.segments.data import CONTROL_START, GRAVITY, Segments
from steerlab.types import Singles

BAND = 128  # bins of a label, or cells of a wide one
WIDE = -1  # in place of a label's first bin: its cells span all bins
LATACCEL = ("actual", "target")
_LARGE = 20.0  # nats, from which on an example's loss grows with the logarithm only

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Sequences:
    """R sequences of T steps.

    Attributes:
        states: (R, T, 4) float32: steer, roll_lataccel (m/s^2), v_ego (m/s), a_ego (m/s^2).
        tokens: (R, T) int16.
        rows: (R,) steps that each sequence has; the rest is padding.
        routes: (R,) names; training and validation never share one.
        start: (R, T - 20) int16, first bin of each soft label, or :data:`WIDE`; None for hard labels.
        labels: (R, T - 20, 128) float16 probabilities of step 20 on, or None for hard labels.
    """

    states: NDArray[np.float32]
    tokens: NDArray[np.int16]
    rows: NDArray[np.int64]
    routes: tuple[str, ...]
    start: NDArray[np.int16] | None = None
    labels: NDArray[np.float16] | None = None

    def __len__(self) -> int:
        return len(self.routes)

    def save(self, path: str | Path) -> None:
        """Write to an .npz file."""
        arrays = {name: value for name, value in vars(self).items() if value is not None}
        write_arrays(path, arrays | {"routes": np.array(self.routes)})

    @classmethod
    def load(cls, path: str | Path) -> "Sequences":
        """Read what :meth:`save` wrote.

        Raises:
            InputError: The file is damaged, or holds no sequences.
        """
        arrays = read_arrays(path)
        names = ("states", "tokens", "rows", "routes")
        states, tokens, rows, routes = require(arrays, names, path)
        start, labels = arrays.get("start"), arrays.get("labels")
        count, steps = tokens.shape if tokens.ndim == 2 else (-1, -1)
        shapes = {"states": (count, steps, 4), "rows": (count,), "routes": (count,)}
        if (start is None) == (labels is None) and start is not None:
            shapes |= {"start": (count, steps - CONTEXT), "labels": (count, steps - CONTEXT, BAND)}
        wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
        kinds = {
            "states": "f",
            "tokens": "i",
            "rows": "i",
            "routes": "U",
            "start": "i",
            "labels": "f",
        }
        wrong += [name for name in arrays if arrays[name].dtype.kind != kinds.get(name)]
        if wrong or (start is None) != (labels is None):
            raise InputError(
                f"{str(path)!r} holds no sequences ({', '.join(wrong)}); make it again"
            )
        return cls(states, tokens, rows, tuple(routes.tolist()), start, labels)


class Windows:
    """Windows of sequences: a data set for :func:`steerlab.agents.supervised.fit`.

    A window has ``20 + predictions - 1`` steps and labels for the last ``predictions`` of them.
    One with a single prediction is what the simulator asks for; longer ones share the work of the
    recurrent network between neighbouring predictions, of which each sees at least 20 steps.

    Args:
        sequences: Where the windows come from.
        predictions: Labels a window has.
        stride: Steps between windows; by default each label is used once.
    """

    def __init__(self, sequences: Sequences, predictions: int = 1, stride: int = 0) -> None:
        self.sequences, self.predictions = sequences, predictions
        first = CONTEXT + predictions - 1
        ends = [np.arange(first, rows, stride or predictions) for rows in sequences.rows]
        rows = np.repeat(np.arange(len(sequences)), [len(e) for e in ends])
        last = np.concatenate([*ends, np.zeros(0, dtype=np.int64)])
        if sequences.start is None:
            near = _near(sequences.tokens)[rows[:, None], last[:, None] - np.arange(predictions)]
            rows, last = rows[near.all(axis=1)], last[near.all(axis=1)]
        self._row, self._last = torch.as_tensor(rows), torch.as_tensor(last)
        self._states = torch.as_tensor(sequences.states)
        self._tokens = torch.as_tensor(sequences.tokens)
        soft = sequences.start is not None
        self._start = torch.as_tensor(sequences.start) if soft else None
        self._labels = torch.as_tensor(sequences.labels) if soft else None

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, indices: Tensor) -> Batch:
        """Return states (B, T, 4), tokens (B, T), start (B, K) and label (B, K, 128)."""
        row, last = self._row[indices, None], self._last[indices, None]
        steps = torch.arange(-CONTEXT - self.predictions + 2, 1)
        states = self._states[row, last + steps]
        tokens = self._tokens[row, last + steps - 1].long()
        asked = last + torch.arange(-self.predictions + 1, 1)
        if self._start is not None and self._labels is not None:
            start = self._start[row, asked - CONTEXT].long()
            label = self._labels[row, asked - CONTEXT].float()
            label = label / label.sum(-1, keepdim=True)
        else:  # hard: a band around the token before
            start = _band_start(tokens[:, -self.predictions :])
            came = self._tokens[row, asked].long() - start
            label = nn.functional.one_hot(came, BAND).float()
        return {"states": states, "tokens": tokens, "start": start, "label": label}


class Mixed:
    """Several sets of windows as one."""

    def __init__(self, parts: Sequence[Windows]) -> None:
        self.parts = parts
        self._ends = torch.cumsum(torch.tensor([len(p) for p in parts]), 0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, indices: Tensor) -> Batch:
        """Return the examples in the order of ``indices``."""
        part = torch.searchsorted(self._ends, indices, right=True)
        if len(self.parts) == 1:
            return self.parts[0][indices]
        batches, places = [], []
        for number, windows in enumerate(self.parts):
            (mine,) = torch.nonzero(part == number, as_tuple=True)
            if len(mine):
                begin = self._ends[number] - len(windows)
                batches.append(windows[indices[mine] - begin])
                places.append(mine)
        order = torch.argsort(torch.cat(places))
        return {name: torch.cat([b[name] for b in batches])[order] for name in batches[0]}


def next_token_loss(model: Any, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """Return the divergence of the prediction from the label; the NLL where labels are hard.

    A loss for :func:`steerlab.agents.supervised.fit`. ``nll`` is the cross-entropy, ``top1`` how
    often the likeliest bins agree.
    """
    predicted = model.band(batch["states"], batch["tokens"], batch["start"], BAND)
    label = batch["label"]
    nll = -(label * predicted).sum(-1)
    entropy = -torch.special.xlogy(label, label).sum(-1)
    divergence = nll - entropy
    damped = _LARGE * (1 + torch.log(divergence.clamp(min=_LARGE) / _LARGE))
    same = predicted.argmax(-1) == label.argmax(-1)
    return {
        "loss": torch.where(divergence > _LARGE, damped, divergence).mean(),
        "nll": nll.mean(),
        "top1": same.float().mean(),
    }


def split_routes(routes: Iterable[str], share: float, seed: int) -> set[str]:
    """Return the routes that are kept for validation, at least one.

    Raises:
        InputError: There are fewer than two routes.
    """
    unique = sorted(set(routes))
    if len(unique) < 2:
        raise InputError(
            f"the data has {len(unique)} route(s); training and validation are split by route, "
            "so give two at least"
        )
    count = min(max(round(share * len(unique)), 1), len(unique) - 1)
    order = np.random.default_rng(seed).permutation(len(unique))
    return {unique[i] for i in order[:count]}


def take(sequences: Sequences, chosen: NDArray[np.bool_]) -> Sequences:
    """Return some of the sequences."""
    return Sequences(
        sequences.states[chosen],
        sequences.tokens[chosen],
        sequences.rows[chosen],
        tuple(r for r, c in zip(sequences.routes, chosen, strict=True) if c),
        None if sequences.start is None else sequences.start[chosen],
        None if sequences.labels is None else sequences.labels[chosen],
    )


def from_segments(segments: Segments) -> Sequences:
    """Return the rows of public segments in which the steer was logged.

    There the lateral acceleration is the target, as the official simulator has it.
    """
    warmup = slice(0, CONTROL_START)
    states = np.stack(
        [
            segments.steer,
            segments.roll_lataccel[:, warmup],
            segments.v_ego[:, warmup],
            segments.a_ego[:, warmup],
        ],
        axis=-1,
    ).astype(np.float32)
    tokens = encode(segments.target[:, warmup]).astype(np.int16)
    return Sequences(states, tokens, np.full(len(segments), CONTROL_START), segments.names)


def from_labels(folder: str | Path, lataccel: str = "actual") -> Sequences:
    """Return the segments that :func:`steerlab.surrogates.logs.pipeline.extract_all` left in a folder.

    Args:
        folder: ``samples_path`` of the extraction.
        lataccel: "actual" (measured) or "target" (as the public data has it).

    Raises:
        InputError: The folder holds no label files or no segments.
    """
    if lataccel not in LATACCEL:
        raise unknown_name("lataccel", lataccel, LATACCEL)
    states, tokens, routes = [], [], []
    name = {"actual": "actualLateralAcceleration", "target": "targetLateralAcceleration"}[lataccel]
    for log in load_identified(folder)[0]:
        for table in log.tables:
            column = dict(zip(COLUMNS, table.T, strict=True))
            states.append(
                np.stack(
                    [
                        -column["steerCommand"],  # logged positive to the left
                        np.sin(column["roll"]) * GRAVITY,
                        column["vEgo"],
                        column["aEgo"],
                    ],
                    axis=-1,
                )
            )
            tokens.append(encode(column[name]))
            routes.append(log.route)
    if not tokens:
        raise InputError(
            f"{str(folder)!r} holds no extracted segments; make them with "
            "steerlab extract-segments samples_path=..."
        )
    rows = np.array([len(t) for t in tokens])
    longest = int(rows.max())
    return Sequences(
        np.stack([np.pad(s, ((0, longest - len(s)), (0, 0))) for s in states]).astype(np.float32),
        np.stack([np.pad(t, (0, longest - len(t))) for t in tokens]).astype(np.int16),
        rows,
        tuple(routes),
    )


class Recorder(Plant):
    """A plant that remembers what it predicted: the teacher of a distillation.

    Attributes:
        start: First bin of each band, one array (N,) a call.
        labels: Probabilities (N, 128) float16, one array a call.
    """

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.start: list[NDArray[np.int16]] = []
        self.labels: list[NDArray[np.float16]] = []

    def logits(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> Singles:
        """Return the plant's logits (B, 1024) and note them."""
        logits = self.plant.logits(states, tokens)
        start, labels = band_of(logits)
        self.start.append(start)
        self.labels.append(labels)
        return logits


def band_of(logits: Singles) -> tuple[NDArray[np.int16], NDArray[np.float16]]:
    """Return the distributions of logits (N, 1024) as soft labels: their start (N,), and (N, 128).

    As a rule a label is the 128 bins around the mean, and start the first of them. Where a hundredth
    of the mass or more lies outside, it is the mass of 128 cells of 8 bins, and start is :data:`WIDE`.
    """
    chances = np.exp(logits - logits.max(axis=-1, keepdims=True))
    chances /= chances.sum(axis=-1, keepdims=True)
    mean = np.rint(chances @ np.arange(VOCABULARY)).astype(np.int64)
    start = (mean - BAND // 2).clip(0, VOCABULARY - BAND)
    labels = np.take_along_axis(chances, start[:, None] + np.arange(BAND), axis=-1)
    wide = labels.sum(axis=-1) < 0.99
    start[wide] = WIDE
    labels[wide] = chances[wide].reshape(-1, BAND, VOCABULARY // BAND).sum(axis=-1)
    labels /= labels.sum(axis=-1, keepdims=True)
    return start.astype(np.int16), labels.astype(np.float16)


def distil(
    teacher: Plant,
    segments: Segments,
    drive: Callable[[Plant, Segments], tuple[NDArray[Any], NDArray[Any]]],
) -> Sequences:
    """Return rollouts of a teacher with its predictions as soft labels.

    Args:
        teacher: The plant to imitate.
        segments: The routes that are driven.
        drive: Drives every segment once in the plant it is given, asking it once a step for all
            rows from step 100 on; returns steer and lateral acceleration (S, 500).
    """
    recorder = Recorder(teacher)
    steer, lataccel = drive(recorder, segments)
    steps = steer.shape[1]
    road = [getattr(segments, n)[:, :steps] for n in ("roll_lataccel", "v_ego", "a_ego")]
    states = np.stack([steer, *road], axis=-1).astype(np.float32)
    tokens = encode(lataccel)
    warmup = Recorder(teacher)
    for step in range(CONTEXT, CONTROL_START):
        warmup.logits(
            np.ascontiguousarray(states[:, step - CONTEXT + 1 : step + 1]),
            np.ascontiguousarray(tokens[:, step - CONTEXT : step]),
        )
    return Sequences(
        states,
        tokens.astype(np.int16),
        np.full(len(segments), steps),
        segments.names,
        np.stack([*warmup.start, *recorder.start], axis=1),
        np.stack([*warmup.labels, *recorder.labels], axis=1),
    )


def join(parts: Sequence[Sequences]) -> Sequences:
    """Return several sets of sequences of the same length and kind as one."""

    def all_of(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    return Sequences(
        routes=tuple(route for part in parts for route in part.routes),
        **{name: all_of(name) for name in ("states", "tokens", "rows", "start", "labels")},
    )


def _band_start(before: Tensor) -> Tensor:
    """Return where the band of a hard label starts, given the token before it."""
    return (before - BAND // 2).clamp(0, VOCABULARY - BAND)


def _near(tokens: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Return which tokens lie in the band around the one before them."""
    before = torch.as_tensor(tokens[:, :-1].astype(np.int64))
    start = _band_start(before).numpy()
    inside = (tokens[:, 1:] >= start) & (tokens[:, 1:] < start + BAND)
    return np.concatenate([np.ones((len(tokens), 1), dtype=bool), inside], axis=1)


def split_windows(
    sequences: Iterable[Sequences], validation: float, predictions: int, seed: int
) -> tuple[Mixed, Mixed]:
    """Return windows for training and for validation; no route is in both.

    Args:
        sequences: The sequences of each source.
        validation: Share of the routes kept for validation.
        predictions: Predictions of a training window; a window for validation has one.
        seed: Seed of the choice of routes.
    """
    parts: tuple[list[Windows], list[Windows]] = [], []
    for some in sequences:
        kept = split_routes(some.routes, validation, seed)
        mine = np.array([route in kept for route in some.routes])
        parts[0].append(Windows(take(some, ~mine), predictions))
        parts[1].append(Windows(take(some, mine), 1, stride=7))
    return Mixed(parts[0]), Mixed(parts[1])
