"""Shards and a network so small that a training takes seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from steerlab.agents.visionnet.network import SIZES, VisionSize
from tests.agents.visionnet.shards import write_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("zarr")
    return write_shards(tmp_path_factory.mktemp("vision") / "shards")


@pytest.fixture
def mini() -> Iterator[str]:
    """Name of a size that is as small as it gets."""
    SIZES["mini"] = VisionSize((4, 4, 4, 4), (1, 1, 1, 1), 2, 4)
    yield "mini"
    del SIZES["mini"]
