"""The warm process and its inputs, made once for all tests of this folder."""

import pytest

from tests.reliability.warm import Warm


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Warm:
    return Warm(tmp_path_factory.mktemp("reliability"))
