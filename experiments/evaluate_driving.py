"""Drive an exported pair from camera to command over held-out episodes of CarlaDriver-v0.

Without policy= the pair of checkpoint= is exported to output=/pair first; by default that is the one of the
package. The files run in openpilot's runner: image and feature queues, plan to command, smoothing. Beside them
drive the preview controller, which sees the true state, a plan that is always straight ahead and, with
policynet=, a PolicyNet on features of the true state. Prints
metres per violation by kind, the offset from the path and comfort, for each scenario and for all of them.
map= takes the scenarios to a map that was not trained on; weather is drawn anew in every episode.

Examples:
  steerlab evaluate-driving films=1
  steerlab evaluate-driving checkpoint=runs/mine/artifacts/checkpoints/epoch_0060.pt traffic=0
  steerlab evaluate-driving policy=out/driving_policy.onnx vision=out/driving_vision.onnx
  steerlab evaluate-driving policy=out/driving_policy.onnx vision=out/driving_vision.onnx "scenario=[highway_follow]" map=Town06.xodr traffic=0 films=1
  steerlab evaluate-driving policy=out/driving_supercombo.onnx contract=openpilot-supercombo-2026-07
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.driving import load_vision
from steerlab.agents.drivingpolicy.checkpoint import load_driving_policy
from steerlab.agents.drivingpolicy.closed_loop import DriveFigures, MakeDriver, PairFiles
from steerlab.agents.drivingpolicy.driver import StraightDriver
from steerlab.agents.drivingpolicy.report import drive_courses
from steerlab.agents.policynet.closed_loop import PolicyFile
from steerlab.envs.carla_driver.course import CourseOptions, courses
from steerlab.errors import InputError, unknown_name
from steerlab.exporters.policy import export_policy
from steerlab.exporters.vision import export_vision
from steerlab.openpilot.contracts import contract
from steerlab.options import option
from steerlab.study import study

BESIDE: Mapping[str, MakeDriver] = {"preview": PreviewDriver, "straight": StraightDriver}


@dataclass(frozen=True)
class Config(CourseOptions):
    """Options of the study."""

    checkpoint: str = option("steerlab", "epoch_NNNN.pt of a pair, or steerlab: that of the package; "
                             "policy= replaces it")  # fmt: skip
    policy: str = option("", "ONNX file of the policy, or of a supercombo")
    vision: str = option("", "ONNX file of the vision network; '' for a supercombo")
    contract: str = option("openpilot-0.10.0", "the release whose modeld is played")
    episodes: int = option(10, "held-out episodes of each scenario, at most 10,000")
    first: int = option(0, "number of the first of them; those that were looked at are not held out "
                        "any more")  # fmt: skip
    steps: int = option(500, "length of an episode in steps of 0.05 s")
    beside: tuple[str, ...] = option(("preview", "straight"), "also drive: preview, straight")
    policynet: str = option("", "also drive: an ONNX file or a policy_model.pth of train-policynet, on "
                            "the features that KinematicDriver-v0 makes of the true state")  # fmt: skip
    films: int = option(0, "episodes of each scenario that are filmed")
    processes: int = option(1, "processes that drive")


def run(config: Config, output: Path) -> dict[str, dict[str, DriveFigures]]:
    """Drive, print, write; return the figures by course and driver."""
    torch.set_num_threads(1)
    _check(config)
    named = courses(config, config.steps)
    drivers: dict[str, MakeDriver] = {"pair": _files(config, output)}
    if config.policynet:
        drivers["PolicyNet"] = PolicyFile(config.policynet, config.contract)
    env = named[0].env()
    for make in drivers.values():
        make(env)  # says now what is wrong with the files
    drivers |= {name: BESIDE[name] for name in config.beside}
    return drive_courses(
        drivers, named, config.episodes, output, config.processes, config.films, config.first
    )


def _files(config: Config, output: Path) -> PairFiles:
    """Return the files that drive; those of a checkpoint are written first."""
    if config.policy:
        return PairFiles(config.policy, config.vision, config.contract)
    policy, network = load_driving_policy(config.checkpoint), load_vision(config.checkpoint)
    target, folder = contract(config.contract), output / "pair"
    seen = export_vision(network, folder, config.checkpoint, half=False, tinygrad=False).onnx
    done = export_policy(
        policy, folder, config.checkpoint, target=target, vision=seen, half=False, tinygrad=False
    )
    vision = done.vision.onnx if done.vision else ""
    return PairFiles(str(done.policy.onnx), str(vision), config.contract)


def _check(config: Config) -> None:
    """Refuse what is out of range before anything is driven.

    Raises:
        InputError: An option is out of range.
    """
    contract(config.contract)
    if config.vision and not config.policy:
        raise InputError("vision= needs policy=, the ONNX file that was exported with it")
    for name in config.beside:
        if name not in BESIDE:
            raise unknown_name("driver to set beside", name, BESIDE)
    for name, least, most in (
        ("episodes", 1, 10_000), ("first", 0, 10_000 - config.episodes), ("steps", 50, 4000),
        ("films", 0, config.episodes), ("processes", 1, 256),
    ):  # fmt: skip
        if not least <= getattr(config, name) <= most:
            raise InputError(f"{name}={getattr(config, name)} must be in {least}..{most}")


main = study(Config, run)

if __name__ == "__main__":
    main()
