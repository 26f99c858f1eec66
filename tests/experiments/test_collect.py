"""collect, inspect-shard and convert-shard, from the command line."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from steerlab.envs.shards import write
from steerlab.envs.shards.layout import PARTS
from steerlab.envs.shards.read import find_shards, open_shard
from steerlab.experiments import collect, convert_shard, inspect_shard

pytest.importorskip("numba")
zarr = pytest.importorskip("zarr")


def test_collect_resume_inspect_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = tmp_path / "shards"
    options = ["scenario=[country_road]", "steps=24", f"output={shards}"]
    collect.main([*options, "episodes=1"])
    (first,) = find_shards(shards)
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
        (["contract=openpilot-1"], "openpilot-1"),
    ):
        with pytest.raises(SystemExit, match=text):
            collect.main([*options, f"output={tmp_path / 'none'}"])
    monkeypatch.setattr(write, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"steerlab\[camera\]"):
        collect.main([f"output={tmp_path / 'none'}"])


@pytest.mark.exhaustive
def test_killed_collections_lose_running_episodes_only(tmp_path: Path) -> None:
    """SIGKILL at random moments, then the rest: equal to an uninterrupted set."""
    options = ["scenario=[country_road]", "episodes=3", "steps=40"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    collect.main([*options, f"output={whole}"])
    command = [sys.executable, "-m", "steerlab", "collect", *options, f"output={killed}"]
    moments = random.Random(0)
    done = 0
    for _ in range(int(os.environ.get("STEERLAB_KILLS", "5"))):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(2, 20))
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = [open_shard(path) for path in find_shards(killed)] if killed.exists() else []
        assert len(found) >= done  # nothing finished is lost
        done = len(found)
    subprocess.run(command, check=True, capture_output=True)
    names = [path.name for path in find_shards(whole)]
    assert [path.name for path in find_shards(killed)] == names
    for name in names:
        ours, theirs = open_shard(whole / name), open_shard(killed / name)
        for part in PARTS:
            np.testing.assert_array_equal(ours.read(part), theirs.read(part))
    assert not list(killed.glob(f"{write.PENDING}*"))
