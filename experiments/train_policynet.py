"""Train PolicyNet on KinematicDriver-v0 or CarlaDriver-v0 and write the files that openpilot's modeld loads.

DAgger by default: the policy drives through the plan that it shows openpilot, a teacher says what it
would have done. With recipe=ppo reinforcement learning maximises the mean return or its CVaR, from
random weights or from a trained policy. After every drive a checkpoint is written: stop with Ctrl-C,
and the same command with the same output= goes on, with the numbers of an uninterrupted run. At the
end the policy is exported, and the ONNX file drives held-out episodes through openpilot's runner.

With env=CarlaDriver-v0 the policy learns from features that a vision model makes of the windshield's pictures.

Files: driving_policy.onnx, driving_policy_metadata.pkl, driving_policy_tinygrad.pkl,
driving_policy_fp16.onnx, policy_model.pth, held_out.json, drivers.png, plan.png.

Examples:
  steerlab train-policynet
  steerlab train-policynet episodes=2000 contract=openpilot-0.10.1
  steerlab train-policynet teacher=runs/train_kinematic_driver/mine
  steerlab train-policynet recipe=ppo start=runs/mine/policy_model.pth ppo.alpha=0.05
  steerlab train-policynet env=CarlaDriver-v0 vision=driving_vision.onnx "scenario=[country_road,highway_follow]"
  steerlab train-policynet dry_run=true
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

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
from steerlab.agents.policynet.evaluate import Figures, held_out
from steerlab.agents.policynet.model import PolicyNet
from steerlab.agents.policynet.ppo import PPOConfig, check_ppo, train_ppo
from steerlab.agents.policynet.report import PLAN_STEPS, plot_plan, report
from steerlab.agents.policynet.task import (
    CARLA_DRIVER,
    KINEMATIC,
    KINEMATIC_DRIVER,
    CarlaTask,
    Task,
    check_task,
)
from steerlab.agents.policynet.train import ImitationConfig, check, train_imitation
from steerlab.envs.carla_driver.course import CourseOptions, courses
from steerlab.errors import InputError, unknown_name
from steerlab.exporters.policy import export_policy
from steerlab.exporters.safety import INTERFACE_ONLY, policy_warning
from steerlab.openpilot.engines import Network
from steerlab.openpilot.network_file import NetworkFile
from steerlab.options import option
from steerlab.study import study

EPISODE = 500  # steps
#: What 0 stands for. With pictures a step costs far more, so few are driven.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    KINEMATIC_DRIVER: {"num_envs": 128, "total_steps": 768_000, "epochs": 4.0, "roads": 1000},
    CARLA_DRIVER: {"num_envs": 4, "total_steps": 48_000, "epochs": 64.0, "roads": 10},
}
PPO_ROWS = {KINEMATIC_DRIVER: PPOConfig.num_envs, CARLA_DRIVER: 4}


@dataclass(frozen=True)
class Config(ImitationConfig, CourseOptions):
    """Options of the study."""

    total_steps: int = option(
        0, "steps of 0.05 s that are driven in all; 0 = 768,000, with CarlaDriver-v0 48,000"
    )
    num_envs: int = option(
        0, "environments that are driven at once; 0 = 128, with CarlaDriver-v0 4"
    )
    epochs: float = option(
        0.0,
        "gradient steps of an iteration, in passes over the frames that it drove; 0 = 4, with CarlaDriver-v0 64",
    )
    recipe: str = option(
        "dagger", "dagger (imitate the teacher) or ppo (fine-tune by reinforcement)"
    )
    start: str = option("", "policy_model.pth to begin with, with its widths; '' = random weights")
    ppo: PPOConfig = field(default_factory=lambda: PPOConfig(num_envs=0))
    env: str = option(KINEMATIC_DRIVER, "the task: KinematicDriver-v0 or CarlaDriver-v0")
    vision: str = option("", "a vision model that looks at the rendered road and makes the "
                         "features, ONNX file or tinygrad pickle; '' takes the fixed encoder")  # fmt: skip
    vision_metadata: str = option(
        "", "metadata of a pickle; '' = <name>_metadata.pkl beside <name>_tinygrad.pkl"
    )
    trust_pickle: bool = option(False, "load the vision pickle, which executes what is in it")
    tinygrad_path: str = option("", "folder of the tinygrad that made it; '' = the installed one")
    episodes: int = option(0, "length of the training in episodes of 500 steps; 0 = total_steps")
    dry_run: bool = option(False, "two short drives and few episodes: is everything in place?")
    roads: int = option(0, "held-out episodes that the exported policy drives at the end, with "
                        "CarlaDriver-v0 of each scenario; 0 = 1000, with CarlaDriver-v0 10")  # fmt: skip
    processes: int = option(2, "processes that drive them")
    tinygrad: bool = option(True, "write the tinygrad pickle too (needs clang)")
    threads: int = option(1, "threads of torch; more of them slow small networks down")


def run(config: Config, output: Path) -> Figures | dict[str, dict[str, DriveFigures]]:
    """Train or go on training, export, drive; return the figures of the exported policy."""
    config = settled(config)
    check_episodes(config.roads, config.processes)
    torch.set_num_threads(config.threads)
    seen = NetworkFile(
        config.vision, config.vision_metadata, config.trust_pickle, config.tinygrad_path
    )
    vision = seen.open() if config.vision else None
    task = task_of(config)
    network = RECIPES[config.recipe](config, output, vision, task)
    done = export_policy(
        network,
        output,
        output.name,
        vision="" if seen.is_pickle else config.vision,
        probe_vision=vision if seen.is_pickle else None,
        tinygrad=config.tinygrad,
    )
    file = PolicyFile(str(done.onnx), config.contract, seen)
    carla = config.env == CARLA_DRIVER
    found = (_drive_courses if carla else _drive)(config, file, output)
    env = task.env(1) if carla else None
    plot_plan(file, output / "plan.png", held_out().first_seed, PLAN_STEPS, env)
    console = Console()
    for note in done.notes:
        console.print(note)
    console.print(f"files: {', '.join(path.name for path in done.files)} in {output}")
    console.print(
        f"check them: steerlab verify-export model={done.onnx} contract={config.contract}"
    )
    console.print(f"curves: tensorboard --logdir {output}")
    console.print(f"[bold red]{policy_warning(network.features)}[/]\n{INTERFACE_ONLY}")
    return found


def _drive(config: Config, file: PolicyFile, output: Path) -> Figures:
    """Drive held-out episodes of KinematicDriver-v0, and print; return the policy's figures."""
    records = {
        "PolicyNet": drive_held_out(file, config.roads, "PolicyNet", config.processes),
        "preview": drive_preview(config.roads),
        "untrained": drive_untrained(config.contract, config.roads),
    }
    return report(records, output)["PolicyNet"]


def _drive_courses(
    config: Config, file: PolicyFile, output: Path
) -> dict[str, dict[str, DriveFigures]]:
    """The same on CarlaDriver-v0, where the untrained network sees the same pictures."""
    assert isinstance(file.vision, NetworkFile)
    drivers: dict[str, MakeDriver] = {
        "PolicyNet": file,
        "preview": PreviewDriver,
        "untrained": Untrained(config.contract, file.vision),
    }
    return drive_courses(drivers, courses(config, EPISODE), config.roads, output, config.processes)


def task_of(config: Config) -> Task:
    """Return the task that the options name."""
    return KINEMATIC if config.env == KINEMATIC_DRIVER else CarlaTask(courses(config, EPISODE))


def _dagger(config: Config, output: Path, vision: Network | None, task: Task) -> PolicyNet:
    return train_imitation(config, output, vision=vision, start=config.start or None, task=task)


def _ppo(config: Config, output: Path, vision: Network | None, task: Task) -> PolicyNet:
    return train_ppo(config, config.ppo, output, config.start or None, vision=vision, task=task)


RECIPES = {"dagger": _dagger, "ppo": _ppo}


def settled(config: Config) -> Config:
    """Return the options with ``episodes`` and ``dry_run`` worked in.

    Raises:
        InputError: An option is out of range.
    """
    if config.recipe not in RECIPES:
        raise unknown_name("recipe", config.recipe, RECIPES)
    check_task(config.env, config, config.vision)
    if config.env == CARLA_DRIVER:
        _check_carla(config)
    usual = {n: v for n, v in DEFAULTS[config.env].items() if getattr(config, n) == 0}
    config = dataclasses.replace(config, **usual)
    if config.ppo.num_envs == 0:
        ppo = dataclasses.replace(config.ppo, num_envs=PPO_ROWS[config.env])
        config = dataclasses.replace(config, ppo=ppo)
    if config.episodes < 0:
        raise InputError(f"episodes={config.episodes} must be at least 0")
    if config.episodes:
        config = dataclasses.replace(config, total_steps=config.episodes * EPISODE)
    if config.dry_run:
        rows, steps = min(config.num_envs, 8), min(config.steps, 120)
        config = dataclasses.replace(
            config, num_envs=rows, steps=steps, total_steps=2 * rows * steps, epochs=1.0,
            batch_size=16, roads=2, processes=1,
        )  # fmt: skip
        if config.recipe == "ppo":
            rows, steps = min(config.ppo.num_envs, 4), min(config.ppo.steps, 60)
            ppo = dataclasses.replace(
                config.ppo, num_envs=rows, steps=steps, epochs=1.0, batch_size=16, critic_first=1
            )
            config = dataclasses.replace(config, ppo=ppo, total_steps=3 * rows * steps)
    if config.recipe == "ppo":
        check_ppo(config, config.ppo)
    else:
        check(config)
    return config


def _check_carla(config: Config) -> None:
    """Refuse what only KinematicDriver-v0 has.

    Raises:
        InputError: An option does not fit CarlaDriver-v0.
    """
    if config.teacher != "preview":
        raise InputError(
            f"teacher={config.teacher!r} knows {KINEMATIC_DRIVER} only; with env={CARLA_DRIVER} it is "
            "preview"
        )
    courses(config, EPISODE)
    if config.recipe == "ppo" and len(config.scenario) != 1:
        raise InputError("recipe=ppo drives one scenario; give scenario=[...] one name")


main = study(Config, run, resumes=True)

if __name__ == "__main__":
    main()
