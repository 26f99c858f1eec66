"""Shards are whole or absent, keep what they are given, and damaged ones are named."""

import json
from pathlib import Path

import numpy as np
import pytest

from steerlab.agents.classical.route_driver import route_driver
from steerlab.envs.labels.labels import labels
from steerlab.envs.shards import layout, read, sunnypilot, write
from steerlab.errors import InputError
from steerlab.openpilot.contracts import contract
from tests.envs.labels.drives import drive

pytest.importorskip("zarr")

FRAMES, TICKS, PHASE = 70, 290, 3


def contents() -> tuple[dict[str, np.ndarray], dict[str, object]]:
    record = drive("arc", ticks=TICKS, speed=10.0, cars=[(60.0, 0.0, 9.0)])
    ticks = PHASE + 4 * np.arange(FRAMES)
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "frame_tick": ticks,
        "state": rng.normal(size=(TICKS, len(layout.STATE))),
        "commands": rng.normal(size=(TICKS, 4)),
        "desire": np.eye(8)[np.arange(TICKS) // 60],
        **labels(record, ticks, route_driver, contract("openpilot-0.10.0").command),
    }
    told = dict.fromkeys(layout.ATTRIBUTES[2:-1], "x")
    return arrays, {**told, "mount": {"forward": 1.5, "rpy": [0.0, 0.1, 0.2]}}


def picture(i: int) -> np.ndarray:
    planes = np.zeros(layout.PLANES, np.uint8)
    planes[0, :, : i + 1] = 100 + i
    planes[4] = 128
    return planes


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arrays, told = contents()
    path = tmp_path_factory.mktemp("shards") / layout.shard_name("test", "arc", 7)
    with write.ShardWriter(path) as writer:
        for i in range(FRAMES):
            writer.add_frame(picture(i), picture(i + 1))
        writer.finish(arrays, told)
    return path


def test_what_goes_in_comes_out(shard: Path) -> None:
    assert shard.name == "test_arc_7.zarr"
    arrays, _ = contents()
    opened = read.open_shard(shard)
    assert (opened.frames, opened.ticks) == (FRAMES, TICKS)
    opened.check()
    for name, values in arrays.items():
        np.testing.assert_array_equal(opened.read(name), values.astype(layout.PARTS[name].dtype))
    for found, given in (
        (opened.read("img", [65])[0], picture(65)),
        (opened.read("big_img", slice(3, 5))[1], picture(5)),
    ):
        assert (found % layout.STEP == 0).all()
        assert np.abs(found.astype(int) - given).max() <= layout.STEP // 2
    assert opened.attributes["step"] == layout.STEP


def test_grey_levels_are_rounded_to_the_nearest() -> None:
    levels = np.arange(256)
    error = write.ROUNDED.astype(int) - levels
    assert np.abs(error).max() == 3
    assert abs(error.mean()) < 0.05
    assert write.ROUNDED[[0, 3, 4, 128, 255]].tolist() == [0, 0, 7, 126, 252]


def test_shards_of_the_version_before_are_refused(shard: Path, tmp_path: Path) -> None:
    copy = damaged(shard, tmp_path)
    about = copy / "zarr.json"
    told = json.loads(about.read_text())
    told["attributes"]["schema"] = 1
    about.write_text(json.dumps(told))
    with pytest.raises(InputError, match="has schema 1; this version reads 2: collect it again"):
        read.open_shard(copy)


def test_mount_is_read(shard: Path) -> None:
    opened = read.open_shard(shard)
    assert opened.mount.rpy == (0.0, 0.1, 0.2)


def test_outside_programs_can_read_it(shard: Path) -> None:
    import zarr

    group = zarr.open_group(shard)
    assert set(group.array_keys()) == set(layout.PARTS)
    assert group.attrs["schema"] == 2
    description = json.loads((shard / "img" / "zarr.json").read_text())
    assert description["zarr_format"] == 3
    assert description["chunk_grid"]["configuration"]["chunk_shape"] == [64, 6, 128, 256]
    inner = description["codecs"][0]["configuration"]
    assert inner["chunk_shape"] == [1, 6, 128, 256]
    assert [codec["name"] for codec in inner["codecs"]] == ["transpose", "bytes", "zstd"]
    # Two files of frames for each camera and at most one for every other array, and descriptions.
    files = sum(1 for p in shard.rglob("*") if p.is_file())
    assert files <= 1 + 2 * 3 + 2 * (len(layout.PARTS) - 2)


def test_unfinished_writers_leave_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    with write.ShardWriter(path) as writer:
        writer.add_frame(picture(0), picture(0))
    assert list(tmp_path.iterdir()) == []
    killed = write.ShardWriter(path)
    killed.add_frame(picture(0), picture(0))
    assert list(read.find_shards(tmp_path)) == []
    assert write.clear_pending(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_existing_shards_are_kept(shard: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        write.ShardWriter(shard)


def damaged(shard: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(shard, tmp_path / shard.name))


@pytest.mark.parametrize("what", ["missing", "short", "schema", "no attribute", "no array", "type"])
def test_damaged_shards_are_named_and_left_out(shard: Path, tmp_path: Path, what: str) -> None:
    copy = damaged(shard, tmp_path)
    about = copy / "zarr.json"
    told = json.loads(about.read_text())
    if what == "missing":
        (copy / "img" / "c" / "1" / "0" / "0" / "0").unlink()
    elif what == "short":
        file = copy / "plan" / "c" / "0" / "0" / "0"
        file.write_bytes(file.read_bytes()[:-5])
    elif what == "schema":
        told["attributes"]["schema"] = 99
    elif what == "no attribute":
        del told["attributes"]["seed"]
    elif what == "no array":
        (copy / "plan" / "zarr.json").unlink()
    else:
        description = copy / "plan" / "zarr.json"
        text = description.read_text().replace("float32", "float64")
        description.write_text(text)
    about.write_text(json.dumps(told))
    with pytest.raises(InputError, match=copy.name):
        read.open_shard(copy)
    shards, bad = read.open_all(tmp_path)
    assert shards == []
    assert len(bad) == 1
    assert copy.name in bad[0]


def test_turned_bits_are_found_when_read(shard: Path, tmp_path: Path) -> None:
    copy = damaged(shard, tmp_path)
    file = copy / "img" / "c" / "0" / "0" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0x55
    file.write_bytes(bytes(content))
    opened = read.open_shard(copy)
    with pytest.raises(InputError, match="damaged: img"):
        opened.check()


def test_foreign_folders_are_named(tmp_path: Path) -> None:
    import zarr

    zarr.open_group(tmp_path / "other.zarr", mode="w").attrs["kind"] = "something"
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "text.zarr").mkdir()
    (tmp_path / "text.zarr" / "zarr.json").write_text("{")
    shards, bad = read.open_all(tmp_path)
    assert shards == []
    assert len(bad) == 3
    with pytest.raises(InputError, match="no folder"):
        read.open_all(tmp_path / "nowhere")


def test_specification_layout(shard: Path) -> None:
    out = sunnypilot.convert(read.open_shard(shard))
    # Shapes of jagoff2/sunnypilot, tools/sunnypilot_training.
    expected = {
        "img": (12, 128, 256), "big_img": (12, 128, 256), "features_buffer": (25, 512),
        "desire": (25, 8), "traffic_convention": (2,), "meta": (55,), "desire_pred": (4, 8),
        "pose": (6, 2), "wide_from_device_euler": (3, 2), "road_transform": (6, 2),
        "lane_lines": (4, 33, 2, 2), "lane_lines_prob": (4, 2), "road_edges": (2, 33, 2, 2),
        "lead": (3, 6, 4, 2), "lead_prob": (3,), "hidden_state": (512,), "plan": (33, 15, 2),
        "desire_state": (8,),
    }  # fmt: skip
    assert {n: a.shape for n, a in out.items()} == {n: (FRAMES, *s) for n, s in expected.items()}
    assert set(sunnypilot.SOURCES) == set(expected)
    atol = 3.1 / 255  # half a step of grey levels, and float16
    np.testing.assert_allclose(out["img"][10, :6].astype(float), picture(9) / 255, atol=atol)
    np.testing.assert_allclose(out["img"][10, 6:].astype(float), picture(10) / 255, atol=atol)
    assert (out["img"][0, :6] == 0).all()


def test_desire_history_is_that_of_openpilot() -> None:
    """Against a queue of 100 slots, pushed one tick after the other."""
    rng = np.random.default_rng(2)
    level = np.eye(8)[np.repeat(rng.integers(0, 7, 40), 7)]
    ticks = np.array([5, 99, 100, 203, 279])
    found = sunnypilot.history(level, ticks)
    queue, before = np.zeros((100, 8)), np.zeros(8)
    for tick, desire in enumerate(level):
        desire = desire.copy()
        desire[0] = 0
        pulse = np.where(desire - before > 0.99, desire, 0)
        before = desire
        queue = np.concatenate([queue[1:], pulse[None]])
        if tick in ticks:
            np.testing.assert_array_equal(
                found[list(ticks).index(tick)], queue.reshape(25, 4, 8).max(axis=1)
            )
