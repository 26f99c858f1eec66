"""A duck-typed server for every test that asks for one."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def compiled_maps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the compiled maps of these tests apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def duck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """One lively server, with CARLA's client of the tests in place of the real one."""
    from tests.envs.carla_server import duck as ducks

    monkeypatch.setitem(sys.modules, "carla", ducks.module())
    yield from ducks.serve()
