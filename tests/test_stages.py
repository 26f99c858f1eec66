"""A stage is done once while its inputs and its files are the same."""

from pathlib import Path

from steerlab.stages import Stages


def test_a_stage_is_done_once_while_its_files_are_whole(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    given, made = tmp_path / "given", tmp_path / "made"
    given.write_text("a")
    calls = []

    def work() -> tuple[list[Path], bool]:
        calls.append(given.read_text())
        made.write_text(given.read_text() * 2)
        return [made], True

    assert stages.once("stage", work, given) == ([made], False)
    assert stages.once("stage", work, given) == ([made], True)
    assert calls == ["a"]
    made.write_text("damaged")
    stages.once("stage", work, given)
    given.write_text("b")
    stages.once("stage", work, given)
    assert calls == ["a", "a", "b"]
    made.unlink()
    stages.once("stage", work, given)
    assert len(calls) == 4
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    stages = Stages(moved)
    assert stages.once("stage", work, moved / "given") == ([moved / "made"], True)
    assert len(calls) == 4


def test_files_that_are_no_good_are_made_again(tmp_path: Path) -> None:
    stages, made = Stages(tmp_path), tmp_path / "made"
    calls = []

    def work() -> tuple[list[Path], bool]:
        calls.append(1)
        made.write_text("a")
        return [made], len(calls) > 1

    before = [stages.once("stage", work)[1] for _ in range(3)]
    assert before == [False, False, True]
    assert len(calls) == 2
