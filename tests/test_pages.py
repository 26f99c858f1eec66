"""Pages of the documentation: what they show runs, what they say of the tasks is so."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def commands(page: str, start: str) -> list[list[str]]:
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    return [shlex.split(line) for line in lines if line.startswith(f"    {start}")]


@pytest.fixture
def own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """The page's first block as the user's file, in a folder of the user."""
    page, module = request.param
    (tmp_path / f"{module}.py").write_text(blocks(page)[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, module, raising=False)
    return str(page)


@pytest.mark.parametrize("own_file", [("add_a_plant.md", "sluggish")], indirect=True)
def test_add_a_plant(own_file: str) -> None:
    rest = blocks(own_file)[1:]
    assert len(rest) == 3
    for block in rest:
        exec(block, {})  # noqa: S102
    # The class and the file are one plant.
    from sluggish import SluggishPlant

    from steerlab.surrogates import load_plant

    rng = np.random.default_rng(1)
    states = rng.normal(size=(3, 20, 4)).astype(np.float32)
    tokens = rng.integers(400, 620, (3, 20))
    ours, file = SluggishPlant(), load_plant("sluggish.onnx")
    np.testing.assert_allclose(ours.expect(states, tokens), file.expect(states, tokens), atol=1e-4)
    mean = np.linspace(-5, 5, 1024)[tokens[:, -1]] * 0.8 + 0.2 * 1.5 * states[:, -1, 0]
    np.testing.assert_allclose(ours.expect(states, tokens), mean, atol=1e-3)


@pytest.mark.parametrize("own_file", [("add_a_study.md", "steering_gain")], indirect=True)
def test_add_a_study(own_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(own_file)[1:]:
        exec(block, {})  # noqa: S102
    assert "best gain: 0.1" in capsys.readouterr().out
    typed = commands(own_file, "python steering_gain.py")
    assert len(typed) == 3
    from steering_gain import main

    for command in typed:
        main(command[2:])
    assert "gains to try" in capsys.readouterr().out
    assert set(json.loads(Path("first/costs.json").read_text())) == {"0.1", "0.3"}
    assert {p.parent.name for p in Path("many").glob("*/costs.json")} == {"0", "1"}
    with pytest.raises(SystemExit, match="gains is empty"):
        main(["gains=[]", "output=none"])


@pytest.mark.parametrize("own_file", [("add_a_study.md", "steering_gain")], indirect=True)
def test_a_study_is_a_script(own_file: str) -> None:
    run = [sys.executable, "steering_gain.py", "gain=1"]
    found = subprocess.run(run, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.startswith("steerlab steering-gain: unknown option 'gain'; did you mean")


#: The order of Gymnasium's own pages, and the tasks of each of ours.
PARTS = (
    "Description", "Action space", "Observation space", "Rewards", "Starting state", "Episode end",
    "Arguments", "Version history", "References",
)  # fmt: skip
TASK_PAGES = {
    "carla_driver.md": ("CarlaDriver-v0",),
    "inverted_pendulum.md": ("InvertedPendulumWide-v0",),
    "kinematic_driver.md": ("KinematicDriver-v0",),
    "tinyphysics.md": ("TinyPhysics-v0",),
    "tracking.md": ("DoubleIntegrator-v0", "VanDerPol-v0"),
}


def part(page: str, title: str) -> str:
    text = (DOCS / page).read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("page", TASK_PAGES)
def test_task_pages_have_the_order_of_gymnasium(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    begin = titles.index("Description")
    rest = [title for title in titles[begin:] if title in PARTS]
    assert rest == list(PARTS)


def test_every_task_has_a_page() -> None:
    from steerlab.envs.tasks import TASKS

    assert {name for names in TASK_PAGES.values() for name in names} >= set(TASKS)


@pytest.mark.parametrize("page", TASK_PAGES)
def test_task_pages_tell_the_spaces(page: str) -> None:
    for name in TASK_PAGES[page]:
        env = gym.make(name)
        size = env.observation_space.shape
        assert f"`Box({size})`" in part(page, "Observation space"), name
        box = env.action_space
        assert isinstance(box, gym.spaces.Box)
        low, high = box.low.flat[0], box.high.flat[0]
        assert f"`Box({low:g}, {high:g}, {box.shape})`" in part(page, "Action space"), name
        env.close()
