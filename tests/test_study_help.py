"""The help that is read from the source says what the imported study says, and imports nothing heavy."""

import dataclasses
import importlib
import subprocess
import sys

import pytest

from steerlab.__main__ import studies
from steerlab.study_help import Unreadable, _dataclass, _tree, option_rows, read_config

HEAVY = ("torch", "scipy", "matplotlib", "onnx", "onnxruntime", "hydra", "stable_baselines3")


@pytest.mark.parametrize("module", studies().values())
def test_the_source_says_what_the_import_says(module: str) -> None:
    text, config_type = read_config(f"steerlab.experiments.{module}")
    study = importlib.import_module(f"steerlab.experiments.{module}")
    defined = next(
        cell.cell_contents
        for cell in study.main.__closure__
        if isinstance(cell.cell_contents, type) and dataclasses.is_dataclass(cell.cell_contents)
    )
    rows = option_rows(config_type)
    assert rows == option_rows(defined)
    assert len(rows) >= len(dataclasses.fields(defined))
    assert [name for name, _, meaning in rows if not meaning] == []
    assert text == (study.__doc__ or "").strip()


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from steerlab.__main__ import main; main(['train-policynet', '--help']);"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "LOADED []" in done.stdout
    for words in ("total_steps", "768,000", "ppo.alpha", "share of the worst returns"):
        assert words in done.stdout


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(Unreadable, match="no dataclass"):
        _dataclass("steerlab.errors", _tree("steerlab.errors").body[-2])  # type: ignore[arg-type]
    with pytest.raises(Unreadable, match="no module"):
        read_config("steerlab.experiments.nothing")
