"""Checkouts of every generation are recognised, others are refused with the reason."""

from pathlib import Path

import pytest

from steerlab.errors import InputError
from steerlab.exporters.install import recognise
from steerlab.exporters.install.targets import expand
from tests.exporters.install.checkouts import MODELD, make_checkout


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("sunny", [False, True])
@pytest.mark.parametrize("contract", MODELD)
def test_every_generation(tmp_path: Path, contract: str, inside: bool, sunny: bool) -> None:
    models = make_checkout(tmp_path / "openpilot", contract, inside=inside, sunny=sunny)
    for place in (tmp_path / "openpilot", models, models.parent, models.parents[1]):
        found = recognise(place)
        assert found.accepts == (contract,)
        assert found.kind == ("sunnypilot" if sunny else "openpilot")
        assert found.models == models
        assert found.tree == tmp_path / "openpilot"
        assert found.version == "0.10.9"
    assert found.separate == ("supercombo" not in contract)


def test_the_package_inside_of_a_checkout(tmp_path: Path) -> None:
    make_checkout(tmp_path / "clone", "openpilot-supercombo-2026-07", inside=True)
    assert recognise(tmp_path / "clone" / "openpilot").tree == tmp_path / "clone"


def test_pickles_for_each_camera_are_built_there(tmp_path: Path) -> None:
    """In 2026, between 0.11.0 and the supercombo, one pickle for a camera joins both networks."""
    joined = """
def policy_pkl_path(w, h): return f'policy_{w}x{h}_tinygrad.pkl'
from openpilot.selfdrive.modeld.compile_warp import make_frame_prepare
inputs = {'desire_pulse': 0}
"""
    make_checkout(tmp_path / "a", "", modeld=joined)
    found = recognise(tmp_path / "a")
    assert found.accepts == ("openpilot-0.11.0",)
    assert not found.separate


@pytest.mark.parametrize(
    ("modeld", "reason"),
    [
        ("'driving_on_policy_tinygrad.pkl' 'desire_pulse'", "on-policy"),
        ("'models/supercombo.onnx'", "older than the separate"),
        (
            "'driving_policy_tinygrad.pkl' 'lateral_control_params' 'prev_desired_curv'",
            "desired_curvature, as before 0.10.0",
        ),
        ("print()", "modeld is unknown"),
    ],
)
def test_other_generations_are_refused(tmp_path: Path, modeld: str, reason: str) -> None:
    make_checkout(tmp_path / "a", "", modeld=modeld)
    with pytest.raises(InputError, match=reason):
        recognise(tmp_path / "a")


def test_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        recognise(tmp_path / "none")
    with pytest.raises(InputError, match="give tree="):
        recognise(tmp_path)
    make_checkout(tmp_path / "a", "openpilot-0.10.0")
    with pytest.raises(InputError, match=r"needs openpilot-0\.10\.0"):
        recognise(tmp_path / "a", contract_id="openpilot-0.10.1")
    with pytest.raises(InputError, match="unknown contract"):
        recognise(tmp_path / "a", contract_id="openpilot-9")


def test_a_folder_with_models_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    folder = tmp_path / "comma" / "modeld"
    folder.mkdir(parents=True)
    assert expand("%LOCALAPPDATA%\\comma\\modeld") == folder
    found = recognise("%LOCALAPPDATA%\\comma\\modeld", contract_id="openpilot-0.10.1")
    assert (found.kind, found.models, found.tree) == ("folder", folder, None)
    make_checkout(tmp_path / "a", "openpilot-0.10.0")
    found = recognise(folder, tree=tmp_path / "a")
    assert found.accepts == ("openpilot-0.10.0",)
    assert found.models == folder
    assert found.tree == tmp_path / "a"
    monkeypatch.delenv("LOCALAPPDATA")
    with pytest.raises(InputError, match="LOCALAPPDATA is not set"):
        recognise("%LOCALAPPDATA%\\comma\\modeld")


def test_bundles(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    assert recognise(folder, name="mine").name == "mine"
    (folder / "driving_policy_wmiv4_tinygrad.pkl").touch()
    found = recognise(folder)
    assert (found.kind, found.name) == ("bundle", "wmiv4")
    assert "openpilot-0.10.0" in found.accepts
    assert "openpilot-0.10.1" in found.accepts
    assert not any("supercombo" in name for name in found.accepts)
    assert found.file("driving_policy", "metadata.pkl") == "driving_policy_wmiv4_metadata.pkl"
    (folder / "driving_vision_other_metadata.pkl").touch()
    with pytest.raises(InputError, match="other, wmiv4"):
        recognise(folder)
    make_checkout(tmp_path / "a", "openpilot-0.10.1", sunny=True)
    with pytest.raises(InputError, match="its bundles lie elsewhere"):
        recognise(tmp_path / "a" / "sunnypilot" / "modeld_v2", name="mine")
