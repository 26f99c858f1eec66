"""Frame pairs: what is in them, who gets which, and that chance follows from seed, epoch and number."""

from pathlib import Path

import numpy as np
import pytest
import torch

from steerlab.agents.visionnet import data
from steerlab.agents.visionnet.augment import AUGMENTATIONS, augment
from steerlab.errors import InputError
from tests.agents.visionnet.shards import FRAMES


def test_pairs_are_the_frame_of_200_ms_ago_and_that_of_now(shards: Path) -> None:
    found, bad = data.find(shards, "dataset.train_path")
    assert bad == []
    pairs = data.FramePairs(found)
    assert len(pairs) == 3 * FRAMES
    fourth = pairs[3]
    assert fourth["img"].shape == fourth["big_img"].shape == (12, 128, 256)
    # The first pixel of a picture is 7 times its frame, from 1: the older one is before the newer one.
    assert (fourth["img"][0, 0, 0], fourth["img"][6, 0, 0]) == (21, 28)
    assert (fourth["big_img"][5, 0, 0], fourth["img"][5, 0, 0]) == (119, 98)
    assert fourth["number"] == 3
    assert pairs.place(FRAMES + 2) == (1, 2)
    np.testing.assert_array_equal(pairs[FRAMES + 2]["lane_lines"], found[1].read("lane_lines", 2))


def test_first_frame_of_an_episode_has_none_before_it(shards: Path) -> None:
    pairs = data.FramePairs(data.find(shards, "x")[0])
    for index in (0, FRAMES, 2 * FRAMES):
        assert not pairs[index]["img"][:6].any()
        assert pairs[index]["img"][6, 0, 0] == 7


def test_splits_keep_episodes_and_maps_apart(shards: Path) -> None:
    found = data.find(shards, "x")[0]
    train, valid = data.split_by_map(found, ["south"])
    assert [s.attributes["map"] for s in train] == ["north", "north"]
    assert [s.attributes["map"] for s in valid] == ["south"]
    train, valid = data.split_by_episode(found, 0.4)
    assert len(train) + len(valid) == 3
    assert not {s.path for s in train} & {s.path for s in valid}
    assert data.split_by_episode(found[::-1], 0.4)[1] == valid[::-1]  # by name, not by order
    for share in (1e-9, 1 - 1e-9):  # none of both parts is ever empty
        assert all(data.split_by_episode(found, share))


def test_refusals(shards: Path, tmp_path: Path) -> None:
    found = data.find(shards, "x")[0]
    with pytest.raises(InputError, match=r"dataset\.train_path is missing"):
        data.find("", "dataset.train_path")
    with pytest.raises(InputError, match="holds no shard"):
        data.find(tmp_path, "dataset.train_path")
    with pytest.raises(InputError, match="west"):
        data.split_by_map(found, ["west"])
    with pytest.raises(InputError, match="nothing is left"):
        data.split_by_map(found, ["north", "south"])
    with pytest.raises(InputError, match=r"in \(0, 1\)"):
        data.split_by_episode(found, 1.5)
    with pytest.raises(InputError, match="too few"):
        data.EpochBatches(10, 6, 0, ranks=2)
    with pytest.raises(InputError, match="blur"):
        data.FramePairs(found, ["blur"])


def test_an_epoch_takes_every_pair_once_and_several_processes_share_it() -> None:
    batches = data.EpochBatches(12, 3, seed=1)
    first = list(batches)
    assert sorted(i for batch in first for i, _ in batch) == list(range(12))
    halves = [data.EpochBatches(12, 3, 1, rank, 2) for rank in (0, 1)]
    assert [list(half) for half in halves] == [first[0::2], first[1::2]]
    batches.epoch = 1
    other = list(batches)
    assert [i for batch in other for i, _ in batch] != [i for batch in first for i, _ in batch]
    assert all(epoch == 1 for batch in other for _, epoch in batch)
    batches.first = 2  # a run goes on in the middle of an epoch
    assert list(batches) == other[2:]
    assert list(batches) == other


def test_changes_follow_from_seed_epoch_and_number(shards: Path) -> None:
    found = data.find(shards, "x")[0]
    one, two = (data.FramePairs(found, AUGMENTATIONS, seed=5) for _ in range(2))
    np.testing.assert_array_equal(one[4, 1]["img"], two[4, 1]["img"])
    plain = data.FramePairs(found)[4]
    for other in (one[4, 2], data.FramePairs(found, AUGMENTATIONS, seed=6)[4, 1], plain):
        assert (other["img"] != one[4, 1]["img"]).any()
    np.testing.assert_array_equal(one[4, 1]["lane_lines"], plain["lane_lines"])


def test_augmentations_do_what_their_names_say() -> None:
    rng = np.random.default_rng(0)
    clean = rng.integers(60, 200, (12, 128, 256)).astype(np.uint8)
    older, newer = clean[:6], clean[6:]
    lost = [augment([clean], ["temporal"], rng)[0] for _ in range(300)]
    assert all((pair[6:] == newer).all() for pair in lost)
    kinds = [
        "kept" if (p[:6] == older).all() else "again" if (p[:6] == newer).all() else "none"
        for p in lost
    ]
    # 5 % are lost: 15 of 300, with a standard deviation of 3.8.
    assert 3 <= 300 - kinds.count("kept") <= 30
    assert {"again", "none"} <= set(kinds)
    noisy = augment([clean] * 2, ["noise"], rng)
    spread = (noisy[0].astype(int) - clean)[:4].std()
    assert 0 < spread < 6
    assert (noisy[0] != noisy[1]).any()  # sensors of their own
    assert abs((noisy[0].astype(int) - clean).mean()) < 0.1
    (light,) = augment([clean], ["photometric"], rng)
    order = np.argsort(clean[0].ravel(), kind="stable")
    assert (np.diff(light[0].ravel()[order].astype(int)) >= 0).all()  # brighter stays brighter
    empty = np.zeros_like(clean)
    assert not augment([empty], AUGMENTATIONS, rng)[0].any()  # zeros stand for no frame


@pytest.mark.slow
def test_workers_give_what_one_process_gives(shards: Path) -> None:
    pairs = data.FramePairs(data.find(shards, "x")[0], AUGMENTATIONS)
    sizes = data.EpochBatches(len(pairs), 9, 0)
    alone, others = (list(data.loader(pairs, sizes, workers)) for workers in (0, 2))
    assert len(alone) == len(others) == 4
    for a, b in zip(alone, others, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=0)


def test_decoded_frames_are_kept_and_read_again(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = data.find(shards, "x")[0]
    plain = data.FramePairs(found, AUGMENTATIONS, 3)
    once = data.FramePairs(found, AUGMENTATIONS, 3, tmp_path)
    for index in range(len(plain)):
        for name, values in plain[index, 1].items():
            np.testing.assert_array_equal(once[index, 1][name], values)
    kept = sorted(tmp_path.glob("*.npy"))
    assert len(kept) == len(found)
    with monkeypatch.context() as patched:
        patched.setattr(np, "save", None)  # nothing is decoded a second time
        again = data.FramePairs(found, AUGMENTATIONS, 3, tmp_path)
        np.testing.assert_array_equal(again[4, 1]["img"], plain[4, 1]["img"])
    for path in kept:
        np.save(path, np.zeros((2, 1), np.uint8))
    with pytest.raises(InputError, match="delete it"):
        data.FramePairs(found, cache=tmp_path)[0]
