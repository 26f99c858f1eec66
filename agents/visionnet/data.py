"""Pairs of frames with their labels, over many shards, as torch takes them.

A pair is formed when it is read: the frame of 200 ms ago, and that of now. Each pair's changes
(:mod:`steerlab.agents.visionnet.augment`) follow from the seed, the epoch and its number alone, so that
neither the number of workers nor a stop in between has an effect.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from steerlab.agents.visionnet.augment import augment, check_augmentations
from steerlab.agents.visionnet.kept import kept_array
from steerlab.agents.visionnet.mirror import mirror_labels, mirror_pictures
from steerlab.envs.shards.layout import PLANES
from steerlab.envs.shards.read import Shard, open_all, open_shard
from steerlab.errors import InputError, unknown_name
from steerlab.openpilot.contracts import IMAGE_LAG
from steerlab.openpilot.images import image_pair
from steerlab.seeds import generator_seed
from steerlab.types import Array

Batch = dict[str, Tensor]
#: Returns frames of a camera, given its name and their rows.
ReadFrames = Callable[[str, Any], Array]
#: Number of a pair, and the epoch in which it is read.
Key = tuple[int, int]

CAMERAS = ("img", "big_img")
#: Labels of the vision heads.
LABELS = (
    "lane_lines", "lane_lines_valid", "lane_lines_prob", "road_edges", "road_edges_valid", "lead",
    "lead_valid", "lead_prob", "lead_prob_valid", "pose", "road_transform",
    "wide_from_device_euler", "desire_pred", "desire_pred_valid", "meta", "meta_valid",
)  # fmt: skip


def find(folder: str | Path, option: str) -> tuple[list[Shard], list[str]]:
    """Return the shards of a folder, and a line for each that had to be left out.

    Raises:
        InputError: The folder is missing or holds no sound shard; ``option`` is named.
    """
    if not folder:
        raise InputError(f"{option} is missing; give a folder of steerlab collect")
    shards, bad = open_all(folder)
    if not shards:
        left_out = f" (left out: {bad[0]})" if bad else ""
        raise InputError(
            f"{option}={str(folder)!r} holds no shard{left_out}; collect some: steerlab collect "
            f"output={folder}"
        )
    return shards, bad


def split_by_episode(shards: Sequence[Shard], share: float) -> tuple[list[Shard], list[Shard]]:
    """Return shards for training and about ``share`` of them, at least one, for validation.

    An episode's part follows from its name, so that it keeps it when others are added.

    Raises:
        InputError: The share is not between 0 and 1, or there is one shard only.
    """
    if not 0 < share < 1:
        raise InputError(f"the share of episodes for validation is {share}; give one in (0, 1)")
    if len(shards) < 2:
        raise InputError("one shard cannot be split; collect more, or give shards for validation")

    def place(shard: Shard) -> float:
        return int(hashlib.sha256(shard.path.name.encode()).hexdigest()[:12], 16) / 16**12

    ordered = sorted(shards, key=place)
    count = sum(place(shard) < share for shard in ordered)
    count = min(max(count, 1), len(ordered) - 1)
    held = {shard.path for shard in ordered[:count]}
    return [s for s in shards if s.path not in held], [s for s in shards if s.path in held]


def split_by_map(shards: Sequence[Shard], maps: Sequence[str]) -> tuple[list[Shard], list[Shard]]:
    """Return shards for training, and those on ``maps`` for validation.

    Raises:
        InputError: No shard is on such a map, or all are.
    """
    known = sorted({str(shard.attributes["map"]) for shard in shards})
    for name in maps:
        if name not in known:
            raise unknown_name("map of the shards", name, known)
    held = [s for s in shards if s.attributes["map"] in maps]
    if len(held) == len(shards):
        raise InputError(f"all shards are on {', '.join(maps)}: nothing is left for the training")
    return [s for s in shards if s.attributes["map"] not in maps], held


class FramePairs(Dataset[dict[str, Array]]):
    """All frames of shards, each with the frame before it and its labels.

    An example has ``img`` and ``big_img`` (12, 128, 256) uint8, the arrays of :data:`LABELS`, and its
    ``number`` among all frames. The older frame is zero where there is none, as openpilot's queues begin.

    Args:
        shards: The episodes.
        augmentations: What happens to the frames; see :mod:`steerlab.agents.visionnet.augment`.
        seed: Of these changes.
        cache: Folder that keeps decoded frames, 0.4 MB for each; '' keeps none.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        augmentations: Sequence[str] = (),
        seed: int = 0,
        cache: str | Path = "",
    ) -> None:
        check_augmentations(augmentations)
        self.cache = cache
        self.paths = [shard.path for shard in shards]
        self.older = [_older(shard) for shard in shards]
        self.ends = np.cumsum([len(older) for older in self.older])
        self.augmentations, self.seed = tuple(augmentations), seed
        self._opened: dict[int, tuple[ReadFrames, dict[str, Array]]] = {}

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}  # each worker opens files of its own

    def __getitem__(self, key: int | Key) -> dict[str, Array]:
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        which, frame = self.place(index)
        read, labels = self._open(which)
        pairs = [_pair(read, name, self.older[which][frame], frame) for name in CAMERAS]
        labels = {name: values[frame] for name, values in labels.items()}
        if self.augmentations:
            rng = np.random.default_rng((self.seed, epoch, index))
            if "mirror" in self.augmentations and rng.random() < 0.5:
                pairs, labels = [mirror_pictures(p) for p in pairs], mirror_labels(labels)
            pairs = augment(pairs, self.augmentations, rng)
        number = np.asarray(index)
        return {"number": number, **dict(zip(CAMERAS, pairs, strict=True)), **labels}

    def place(self, index: int) -> tuple[int, int]:
        """Return the number of the shard of a pair, and of its frame there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = int(np.searchsorted(self.ends, index, side="right"))
        return which, index - int(self.ends[which - 1] if which else 0)

    def _open(self, which: int) -> tuple[ReadFrames, dict[str, Array]]:
        if which not in self._opened:
            shard = open_shard(self.paths[which])
            read = _reader(shard, self.cache)
            self._opened[which] = read, {name: shard.read(name) for name in LABELS}
        return self._opened[which]


def _reader(shard: Shard, cache: str | Path) -> ReadFrames:
    """Return what reads frames of a shard, from decoded ones if there is a folder for them."""
    if not cache:
        return shard.read
    shape = (len(CAMERAS), shard.frames, *PLANES)
    frames = kept_array(
        cache, shard, "frames", shape, lambda: np.stack([shard.read(name) for name in CAMERAS])
    )
    decoded = dict(zip(CAMERAS, frames, strict=True))
    return lambda name, rows: decoded[name][rows]


def _older(shard: Shard) -> Array:
    """Return for each frame of a shard the frame of 200 ms before it, -1 where there is none."""
    ticks = shard.read("frame_tick")
    found = np.searchsorted(ticks, ticks - IMAGE_LAG)
    there = ticks[np.minimum(found, len(ticks) - 1)] == ticks - IMAGE_LAG
    return np.where(there, found, -1)


def _pair(read: ReadFrames, name: str, older: int, newer: int) -> Array:
    """Return the image pair (12, 128, 256) of two frames; zeros for an older one of -1."""
    if older < 0:
        now = read(name, newer)
        return image_pair(np.zeros_like(now), now)
    rows = slice(int(older), newer + 1, newer - int(older))
    frames = read(name, rows)
    return image_pair(frames[0], frames[1])


class EpochBatches(Sampler[list[Key]]):
    """Batches of an epoch in a random order, whole ones only; several processes share them out.

    Args:
        count: Number of pairs.
        batch_size: Pairs in a batch of one process.
        seed: Of the order.
        rank: Number of this process.
        ranks: Number of processes.

    Attributes:
        epoch: Which one is next.
        first: Batch of this process with which it begins; 0 again after that.

    Raises:
        InputError: There are fewer pairs than a batch of each process needs.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, rank: int = 0, ranks: int = 1
    ) -> None:
        if count < batch_size * ranks:
            raise InputError(
                f"{count} frame pairs are too few for batches of {batch_size * ranks}; collect more, "
                "or lower batch_size="
            )
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.rank, self.ranks = rank, ranks
        self.epoch, self.first = 0, 0

    def __len__(self) -> int:
        return self.count // (self.batch_size * self.ranks)

    def __iter__(self) -> Iterator[list[Key]]:
        first, self.first = self.first, 0
        seed = generator_seed("training", self.seed, self.epoch)
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(seed))
        for batch in range(first, len(self)):
            start = (batch * self.ranks + self.rank) * self.batch_size
            yield [(int(i), self.epoch) for i in order[start : start + self.batch_size]]


def loader(
    pairs: FramePairs,
    batches: Sampler[list[Key]] | Sequence[list[int]],
    workers: int,
    pin: bool = False,
) -> DataLoader[Any]:
    """Return a loader of batches; its workers are spawned, since a fork may hang zarr's threads."""
    return DataLoader(
        pairs,
        batch_sampler=cast(Any, batches),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(0),  # leaves the global one alone
        pin_memory=pin,
        worker_init_fn=_one_thread,
    )  # fmt: skip


def in_order(pairs: FramePairs, batch_size: int) -> list[list[int]]:
    """Return the batches of all pairs in their order."""
    return [
        list(range(first, min(first + batch_size, len(pairs))))
        for first in range(0, len(pairs), batch_size)
    ]


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
