"""A task from a user's own file: the page that shows how, held to all that ours are held to."""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from steerlab.envs import register_task
from steerlab.envs.batch import BatchEnv, SingleEnv
from steerlab.envs.tasks import TASKS
from steerlab.errors import InputError
from tests.envs import test_copies, test_registry

PAGE = Path(__file__).parents[2] / "docs" / "add_a_task.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
NAME = "Crosswind-v0"


@pytest.fixture(scope="module", autouse=True)
def crosswind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The page's first block as the user's file."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "crosswind.py").write_text(BLOCKS[0], encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield importlib.import_module("crosswind")
    sys.path.remove(str(folder))
    del sys.modules["crosswind"], TASKS[NAME], gym.registry[NAME]


@pytest.mark.parametrize("block", BLOCKS[1:])
def test_page(block: str) -> None:
    exec(block, {})  # noqa: S102


def checks() -> list[Any]:
    """Return every test of the registry that is made for one task."""
    found = []
    for name, check in inspect.getmembers(test_registry, inspect.isfunction):
        parameters = list(inspect.signature(check).parameters)
        if name.startswith("test_") and parameters == ["name"]:
            found.append(check)
    return found


@pytest.mark.parametrize("check", checks())
def test_what_ours_keep(check: Any) -> None:
    check(NAME)


def test_registry_has_checks() -> None:
    assert len(checks()) >= 9


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_rows(mode: AutoresetMode) -> None:
    test_registry.test_vector_rows_equal_single_environments(NAME, mode)


@pytest.mark.parametrize("form", test_copies.FORMS)
def test_copies_go_on_alike(form: Any) -> None:
    test_copies.check_copies(form, NAME, {})


@pytest.mark.parametrize("limit", [12, None, -1])
def test_time_limit(limit: int | None) -> None:
    test_registry.TestTimeLimit().test_all_forms_make_the_same_task(NAME, limit)
    test_registry.TestTimeLimit().test_remade_from_its_spec(NAME)
    test_registry.TestTimeLimit().test_the_default_is_the_registered_one(NAME)


@pytest.mark.parametrize("way", test_registry.WAYS)
def test_settings(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(test_registry.CHANGES, NAME, {"wind": 0.9})
    test_registry.TestSettings().test_it_works_or_is_refused(NAME, way)
    test_registry.TestSettings().test_wrong_values_and_names_are_refused(NAME, way)


def test_a_task_without_pictures_promises_none(crosswind: ModuleType) -> None:
    assert crosswind.CrosswindEnv.metadata["render_modes"] == []
    with pytest.raises(InputError, match="render_mode='rgb_array'"):
        crosswind.CrosswindEnv(render_mode="rgb_array")
    env = gym.make(NAME)
    env.reset()
    assert env.unwrapped.render() is None

    class Drawn(crosswind.CrosswindVectorEnv):  # type: ignore[name-defined]
        def render_row(self, row: int) -> Any:
            return np.full((4, 4, 3), row, np.uint8)

    assert Drawn.metadata["render_modes"] == ["rgb_array"]
    drawn = Drawn(2, render_mode="rgb_array")
    drawn.reset()
    assert [int(picture.max()) for picture in drawn.render()] == [0, 1]


def test_names_and_classes_are_checked(crosswind: ModuleType) -> None:
    for taken in ("KinematicDriver-v0", "CartPole-v1"):
        with pytest.raises(InputError, match="is taken"):
            register_task(taken, crosswind.CrosswindEnv)
    wrong: Any
    for wrong in (crosswind.CrosswindVectorEnv, crosswind.CrosswindEnv(), SingleEnv, BatchEnv):
        with pytest.raises(InputError, match="SingleEnv"):
            register_task("Other-v0", wrong)
    assert "Other-v0" not in TASKS
    # A notebook's cell that runs twice.
    kind = crosswind.CrosswindEnv
    register_task(NAME, kind, max_episode_steps=30)
    assert gym.spec(NAME).max_episode_steps == TASKS[NAME].max_episode_steps == 30
    register_task(NAME, kind, max_episode_steps=50, reward_bounds=(-25.0, 0.0))


def test_termination_and_time_limit_may_meet(crosswind: ModuleType) -> None:
    """As under gymnasium's TimeLimit: the last step tells both."""
    for env in (gym.make(NAME, max_episode_steps=1), crosswind.CrosswindEnv(max_episode_steps=1)):
        env.reset(options={"offset": 4.0})
        assert env.step(np.zeros(1, np.float32))[2:4] == (True, True)
    vector = gym.make_vec(NAME, 2, max_episode_steps=1)
    vector.reset(options={"offset": np.array([4.0, 0.0])})
    _, _, terminated, truncated, _ = vector.step(np.zeros((2, 1), np.float32))
    assert terminated.tolist() == [True, False]
    assert truncated.tolist() == [True, True]
