"""Loading segments: what is read, and what is refused with which words."""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from steerlab.errors import InputError
from steerlab.surrogates.plants.tokens import BINS, decode, encode
from steerlab.surrogates.segments.data import COLUMNS, load_segments, official_seed, write_segment
from steerlab.surrogates.segments.synthetic import synthetic_segment, synthetic_segments


def table(rows: int = 600, seed: int = 0) -> np.ndarray:
    return synthetic_segment(np.random.default_rng(seed), rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        write_segment(tmp_path / f"{i:05d}.csv", table(600 - 20 * i, i))
    return tmp_path


def test_round_trip_equals_pandas_and_the_official_columns(folder: Path) -> None:
    segments = load_segments(folder)
    assert segments.names == ("00000", "00001", "00002")
    assert segments.rows.tolist() == [600, 580, 560]
    for i, name in enumerate(segments.names):
        frame = pd.read_csv(folder / f"{name}.csv")
        rows = len(frame)
        np.testing.assert_array_equal(segments.target[i, :rows], frame.targetLateralAcceleration)
        np.testing.assert_array_equal(segments.v_ego[i, :rows], frame.vEgo)
        np.testing.assert_array_equal(segments.a_ego[i, :rows], frame.aEgo)
        np.testing.assert_array_equal(segments.roll_lataccel[i, :rows], np.sin(frame.roll) * 9.81)
        np.testing.assert_array_equal(segments.steer[i], -frame.steerCommand[:100])
        assert (segments.target[i, rows:] == frame.targetLateralAcceleration.iloc[-1]).all()


def test_zip_and_limit(folder: Path) -> None:
    archive = folder / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.glob("*.csv"), reverse=True):
            file.write(path, f"data/{path.name}")
        file.writestr("__MACOSX/data/._00000.csv", "junk")
    from_zip, from_folder = load_segments(archive, 2), load_segments(folder, 2)
    assert from_zip.names == from_folder.names == ("00000", "00001")
    np.testing.assert_array_equal(from_zip.target, from_folder.target)


def test_lookup(folder: Path) -> None:
    segments = load_segments(folder)
    assert segments.index("00002") == segments.index("2") == segments.index("00002.csv") == 2
    assert segments[1:].names == ("00001", "00002")
    with pytest.raises(InputError, match="unknown segment '00009'; did you mean"):
        segments.index("00009")


def test_official_seeds() -> None:
    assert [official_seed(f"{i:05d}") for i in range(3)] == [3285, 9739, 9174]
    assert official_seed("00000", "salt") != 3285


def spoil(folder: Path, column: str, row: int) -> None:
    frame = pd.read_csv(folder / "00001.csv")
    frame.loc[row, column] = np.nan
    frame.to_csv(folder / "00001.csv", index=False)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_gap_names_file_column_and_row(folder: Path, column: str) -> None:
    spoil(folder, column, 57)
    with pytest.raises(InputError, match=rf"'00001.csv'.*'{column}'.* row 57"):
        load_segments(folder)


def test_gaps_that_do_not_matter(folder: Path) -> None:
    spoil(folder, "steerCommand", 100)
    spoil(folder, "vEgo", 549)
    assert len(load_segments(folder)) == 3


def test_missing_column(folder: Path) -> None:
    pd.read_csv(folder / "00001.csv").drop(columns="roll").to_csv(folder / "00001.csv", index=False)
    with pytest.raises(InputError, match=r"'00001.csv'.*lacks column 'roll'"):
        load_segments(folder)


def test_too_few_rows(folder: Path) -> None:
    write_segment(folder / "00001.csv", table(548))
    with pytest.raises(InputError, match=r"'00001.csv'.*548 rows, needs 549"):
        load_segments(folder)


def test_text_in_a_column(folder: Path) -> None:
    text = (folder / "00001.csv").read_text().replace("0.3,", "fast,", 1)
    (folder / "00001.csv").write_text(text)
    with pytest.raises(InputError, match=r"'00001.csv'.*not a CSV of numbers"):
        load_segments(folder)


def test_other_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no CSV"):
        load_segments(tmp_path)
    with pytest.raises(InputError, match="do not exist"):
        load_segments(tmp_path / "none")
    (tmp_path / "x.zip").write_bytes(b"not a zip")
    with pytest.raises(InputError, match="no zip archive"):
        load_segments(tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"'readme.txt', which is no segment"):
        load_segments(tmp_path / "y.zip")


def test_damaged_zip(folder: Path) -> None:
    archive = folder / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(folder / "00000.csv", "00000.csv")
    data = bytearray(archive.read_bytes())
    data[500:520] = bytes(20)
    archive.write_bytes(data)
    with pytest.raises(InputError, match=r"'00000.csv'.* is damaged"):
        load_segments(archive)


def test_synthetic_segments_resemble_the_public_ones() -> None:
    segments = synthetic_segments(64, seed=1)
    assert 0.1 < np.abs(segments.target).mean() < 0.5
    assert 15 < segments.v_ego.mean() < 30
    assert segments.v_ego.min() > 0
    assert np.abs(segments.steer).max() < 2
    again = synthetic_segments(3, seed=1)
    np.testing.assert_array_equal(again.target, segments.target[:3])


@given(st.lists(st.floats(-6, 6, allow_nan=False), min_size=1, max_size=50))
@settings(deadline=None, max_examples=50)
def test_tokens_are_numpy_digitize(values: list[float]) -> None:
    wanted = np.digitize(np.clip(values, -5, 5), np.linspace(-5, 5, 1024), right=True)
    np.testing.assert_array_equal(encode(values), wanted)
    assert (decode(encode(values)) >= np.clip(values, -5, 5)).all()


def test_every_token_survives() -> None:
    np.testing.assert_array_equal(encode(BINS), np.arange(1024))
