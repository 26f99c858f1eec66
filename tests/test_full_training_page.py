"""docs/full_training.md has a row for every command and switch of the guide, and each of ours parses."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from steerlab.__main__ import studies
from steerlab.study import options_of
from steerlab.study_files import WRITE

PAGE = Path(__file__).parents[1] / "docs" / "full_training.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ")]
COMMANDS = sorted(set(re.findall(r"`(steerlab [^`]+)`", TEXT))) + [
    line.strip().partition("  #")[0]
    for line in TEXT.splitlines()
    if line.startswith("    steerlab ")
]
#: Switches of its scripts that the guide does not mention.
SCRIPTS = (
    "-DatasetRoot", "-OpenpilotRoot", "-ConfigName", "-MaxEpochs", "-CheckpointInterval",
    "-ConfigOverride", "-CarlaHost", "-CarlaPort", "-CarlaReadyTimeout", "-CollectorSeed",
    "-TrainShardSize", "-ValShardSize", "-VisionOnnx", "-PolicyOnnx",
)  # fmt: skip
#: Words of PowerShell itself, not of the guide's tools.
_SHELL = {"-ItemType", "-Force"}


def test_there_are_many() -> None:
    assert len(COMMANDS) > 35


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_ours_parses(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_run.yaml").write_text("batch_size: 4\n")
    _, study, *arguments = shlex.split(command.replace("\\", "\\\\"))
    module = importlib.import_module(f"steerlab.experiments.{studies()[study]}")
    if WRITE in arguments:
        assert len(arguments) == 2
        return
    typed = [a for a in arguments if not a.startswith("output=")]
    options_of(module.Config, typed)


def test_every_word_of_the_guide_has_a_row(shared: Path) -> None:
    guide = (shared / "seeds" / "sunnypilot_carla_training.txt").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```powershell\n(.*?)```", guide, re.DOTALL))
    code += "\n".join(re.findall(r"`([^`\n]+)`", guide))
    words = set(re.findall(r"(?<![\w-])-[A-Z][A-Za-z]+|(?<=\s)--[a-z-]+", code)) - _SHELL
    words |= set(re.findall(r"\b\w+\.ps1|\bInvoke-\w+|\bEnter-\w+", code))
    words |= set(re.findall(r"\b(?:export_\w+|train)\.py\b", code))
    words |= {"training.resume", "dataset", "pytest", "CARLA_ROOT", "nvidia-smi"}
    assert {"-Scenario", "-InstallModels", "--onnx", "replace_models.ps1"} <= words
    left = "\n".join(row.split(" | ")[0] for row in ROWS)
    assert not {word for word in words | set(SCRIPTS) if word not in left}
