"""Functions that are named on the command line."""

import sys
from pathlib import Path

import pytest

from steerlab.callables import import_callable
from steerlab.errors import InputError

SOURCE = """
import math
limit = 3

def double(x):
    return 2 * x
"""


def test_modules_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert import_callable("math:hypot", "reward")(3, 4) == 5
    (tmp_path / "own_rewards_42.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])  # as a console script has it
    for name in ("own_rewards_42:double", "own_rewards_42.py:double"):
        assert import_callable(name, "reward")(21) == 42


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("math", "must be module:function"),
        ("math:", "must be module:function"),
        (":hypot", "must be module:function"),
        ("math:hypo", "did you mean 'hypot'"),
        ("math:pi", "unknown function of math 'pi'"),
        ("nothing_such_42:f", "importing 'nothing_such_42' fails .ModuleNotFoundError"),
        ("nowhere.py:f", "there is no file 'nowhere.py'"),
        ("broken.py:f", "importing 'broken.py' fails .ZeroDivisionError: division by zero"),
    ],
)
def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("1 / 0\n")
    with pytest.raises(InputError, match=message):
        import_callable(name, "reward")
