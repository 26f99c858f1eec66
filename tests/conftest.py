"""Shared fixtures: one torch thread, and the real data when it is at hand."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real data that is not part of the project; tests that need it skip without it."""
    folder = Path(os.environ.get("STEERLAB_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real data: set STEERLAB_SHARED (looked in {folder})")
    return folder
