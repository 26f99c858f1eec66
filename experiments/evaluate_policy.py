"""Drive held-out episodes with any openpilot policy file, several side by side in one table.

Each file runs in openpilot's runner: history queues, plan to command, smoothing; the command then
drives KinematicDriver-v0 at its default ranges. The episodes are the frozen held-out ones, so tables
of different days compare. Files of ours take the features of the task. A stock openpilot pair sees
the road through the rendered camera: give its vision model with vision=.

With env=CarlaDriver-v0 the files drive held-out episodes of scenarios on maps, behind a vision model that sees the
windshield's pictures, and the table is that of evaluate-driving: metres per violation by kind, offset, comfort.

Examples:
  steerlab evaluate-policy models=[output/driving_policy.onnx]
  steerlab evaluate-policy models=[a.onnx,b.onnx] episodes=1000
  steerlab evaluate-policy models=[output/policy_model.pth] hard=true episodes=1000
  steerlab evaluate-policy models=[driving_policy.onnx] vision=driving_vision.onnx episodes=4
  steerlab evaluate-policy models=[policy_model.pth] env=CarlaDriver-v0 vision=driving_vision.onnx episodes=10
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.drivingpolicy.closed_loop import DriveFigures, MakeDriver
from steerlab.agents.drivingpolicy.report import drive_courses
from steerlab.agents.policynet.closed_loop import (
    PolicyFile,
    Untrained,
    check_episodes,
    drive_held_out,
    drive_preview,
    drive_untrained,
)
from steerlab.agents.policynet.evaluate import Figures, film_drive, hard_episodes, held_out
from steerlab.agents.policynet.report import report
from steerlab.agents.policynet.task import CARLA_DRIVER, KINEMATIC_DRIVER, check_task
from steerlab.envs.carla_driver.course import CourseOptions, courses
from steerlab.errors import InputError, unknown_name
from steerlab.openpilot.contracts import contract
from steerlab.openpilot.network_file import NetworkFile
from steerlab.options import option
from steerlab.study import study

BESIDE = ("preview", "untrained")


@dataclass(frozen=True)
class Config(CourseOptions):
    """Options of the study."""

    models: tuple[str, ...] = option((), "ONNX files, or a policy_model.pth, which is faster")
    env: str = option(KINEMATIC_DRIVER, "the task: KinematicDriver-v0 or CarlaDriver-v0")
    contract: str = option("openpilot-0.10.0", "the release whose modeld is played")
    vision: str = option(
        "", "a vision model, ONNX file or tinygrad pickle; '' gives the task's own features"
    )
    vision_metadata: str = option(
        "", "metadata of a pickle; '' = <name>_metadata.pkl beside <name>_tinygrad.pkl"
    )
    trust_pickle: bool = option(False, "load the vision pickle, which executes what is in it")
    tinygrad_path: str = option("", "folder of the tinygrad that made it; '' = the installed one")
    beside: tuple[str, ...] = option(
        BESIDE, "also drive: preview (controller), untrained (network)"
    )
    episodes: int = option(100, "held-out episodes of each, at most 10,000")
    hard: bool = option(False, "in place of the held-out episodes others with long actuation delay, noisy "
                               "perception and mostly high speed")  # fmt: skip
    processes: int = option(2, "processes that drive them")
    steps: int = option(500, "length of an episode of CarlaDriver-v0 in steps of 0.05 s")
    video: bool = option(False, "film the first file's first three episodes")


def run(config: Config, output: Path) -> dict[str, Figures] | dict[str, dict[str, DriveFigures]]:
    """Drive, print, plot; return the figures by name, with CarlaDriver-v0 by course and name."""
    check_episodes(config.episodes, config.processes)
    check_task(config.env, config, config.vision if config.models else None)
    if not config.models and not config.beside:
        raise InputError("models= is empty; give the path of an ONNX file")
    contract(config.contract)
    for name in config.beside:
        if name not in BESIDE:
            raise unknown_name("driver to set beside", name, BESIDE)
    vision = NetworkFile(
        config.vision, config.vision_metadata, config.trust_pickle, config.tinygrad_path
    )
    if config.vision:
        vision.open()  # says now what is wrong with a file
    files = {
        name: PolicyFile(path, config.contract, vision)
        for name, path in zip(_names(config.models), config.models, strict=True)
    }
    for file in files.values():
        file.network()
    if config.env == CARLA_DRIVER:
        return _drive_courses(config, files, vision, output)
    others = hard_episodes() if config.hard else None
    records = {
        name: drive_held_out(file, config.episodes, name, config.processes, file.block, others)
        for name, file in files.items()
    }
    if "preview" in config.beside:
        records["preview"] = drive_preview(config.episodes, others)
    if "untrained" in config.beside:
        records["untrained"] = drive_untrained(config.contract, config.episodes, others)
    found = report(records, output, others)
    if config.video and files:
        them = others or held_out()
        seeds = them.seeds(min(3, config.episodes))
        film = film_drive(next(iter(files.values())), output / "drive", seeds, them.ranges)
        print(f"film: {film}")
    return found


def _drive_courses(
    config: Config, files: dict[str, PolicyFile], vision: NetworkFile, output: Path
) -> dict[str, dict[str, DriveFigures]]:
    """Drive held-out episodes of CarlaDriver-v0."""
    if config.hard:
        raise InputError(f"hard=true names episodes of {KINEMATIC_DRIVER}; leave it out")
    if not 50 <= config.steps <= 4000:
        raise InputError(f"steps={config.steps} must be in 50..4000")
    torch.set_num_threads(1)
    drivers: dict[str, MakeDriver] = {**files}
    if "preview" in config.beside:
        drivers["preview"] = PreviewDriver
    if "untrained" in config.beside:
        drivers["untrained"] = Untrained(config.contract, vision)
    films = min(3, config.episodes) if config.video and files else 0
    named = courses(config, config.steps)
    return drive_courses(drivers, named, config.episodes, output, config.processes, films)


def _names(paths: tuple[str, ...]) -> list[str]:
    """Return a short name for each path, different ones."""
    names = [Path(path).stem for path in paths]
    if len(set(names)) == len(names):
        return names
    folders = [f"{Path(path).parent.name}/{Path(path).stem}" for path in paths]
    return folders if len(set(folders)) == len(folders) else list(paths)


main = study(Config, run)

if __name__ == "__main__":
    main()
