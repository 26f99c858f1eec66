"""collect, inspect-shard and convert-shard, from the command line."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from steerlab.envs.shards import write
from steerlab.envs.shards.layout import PARTS
from steerlab.envs.shards.read import find_shards, open_shard
from steerlab.experiments import collect, convert_shard, inspect_shard
from tests.reliability.harness import ended, none_left, start

pytest.importorskip("numba")
zarr = pytest.importorskip("zarr")


@pytest.mark.slow
def test_collect_resume_inspect_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = tmp_path / "shards"
    options = ["scenario=[country_road]", "steps=24", "disturbance=2", f"output={shards}"]
    collect.main([*options, "episodes=1"])
    (first,) = find_shards(shards)
    told = open_shard(first).attributes["disturbance"]
    assert (told["lateral"], told["longitudinal"]) == (2.0, 1.6)
    before = first.stat().st_mtime_ns
    collect.main([*options, "episodes=2"])  # more of the same: what is there stays
    assert len(list(find_shards(shards))) == 2
    assert first.stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match="other settings"):
        collect.main([*options, "hz=20"])

    (shards / "foreign.zarr").mkdir()
    capsys.readouterr()
    inspect_shard.main([f"shard={shards}", f"output={tmp_path / 'look'}", "film=false"])
    printed = capsys.readouterr().out
    assert "left out" in printed
    assert "foreign.zarr" in printed
    assert "lane_lines" in printed
    assert (tmp_path / "look" / f"{first.stem}.jpg").exists()

    convert_shard.main([f"shard={shards}", f"output={tmp_path / 'converted'}"])
    group = zarr.open_group(tmp_path / "converted" / first.name)
    assert group["img"].shape[1:] == (12, 128, 256)
    assert group["plan"].shape[1:] == (33, 15, 2)
    assert set(group.attrs["schema"]) == set(group.array_keys())


def test_errors_come_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, text in (
        (["scenario=[moon]"], "moon"),
        (["backend=cloud"], "backend"),
        (["episodes=0"], "episodes"),
        (["disturbed=2"], "disturbed"),
        (["disturbance=11"], "disturbance"),
        (["contract=openpilot-1"], "openpilot-1"),
    ):
        with pytest.raises(SystemExit, match=text):
            collect.main([*options, f"output={tmp_path / 'none'}"])
    monkeypatch.setattr(write, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"steerlab\[camera\]"):
        collect.main([f"output={tmp_path / 'none'}"])


@pytest.mark.exhaustive
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks warm processes")
def test_killed_collections_lose_running_episodes_only(tmp_path: Path) -> None:
    """SIGKILL at random moments, then the rest: equal to an uninterrupted set.

    A folder that is whole is compared, and the next one begun, until there were enough kills.
    """
    options = ["scenario=[country_road]", "episodes=4", "steps=40", "processes=2", "output=out"]
    assert ended(start("collect", options, tmp_path / "whole")) == 0
    moments, folders, kills = random.Random(0), [tmp_path / "killed_1"], 0
    done = 0
    while kills < int(os.environ.get("STEERLAB_KILLS", "5")):
        pid = start("collect", options, folders[-1])
        time.sleep(moments.uniform(0.2, 8.0))
        os.kill(pid, signal.SIGKILL)
        kills += ended(pid) == -signal.SIGKILL
        assert none_left(pid)
        out = folders[-1] / "out"
        found = [open_shard(path) for path in find_shards(out)] if out.exists() else []
        assert len(found) >= done  # nothing finished is lost
        done = len(found)
        if done == 4:
            folders.append(tmp_path / f"killed_{len(folders) + 1}")
            done = 0
    names = [path.name for path in find_shards(tmp_path / "whole/out")]
    for folder in folders:
        assert ended(start("collect", options, folder)) == 0, (folder / "log.txt").read_text()
        assert [path.name for path in find_shards(folder / "out")] == names
        for name in names:
            ours, theirs = (open_shard(f / "out" / name) for f in (tmp_path / "whole", folder))
            for part in PARTS:
                np.testing.assert_array_equal(ours.read(part), theirs.read(part))
        assert not list((folder / "out").glob(f"{write.PENDING}*"))
    print(f"{kills} kills in {len(folders)} collections: nothing lost, all equal")
