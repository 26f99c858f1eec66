r"""Go from nothing to files for openpilot in one command: collect, train, export, archive, install.

Collects train_episodes= and val_episodes= of the scenarios into dataset_root=, trains the vision network and
the policy (steerlab train-driving with config_name=), and exports ONNX, metadata and tinygrad files into
export_dir=. Keeps checkpoint, settings, list of the data and versions in output=/archive. With
install_models=true confirm=true it installs the files into the checkout openpilot_root=.

Every stage prints the command that does the same. You may stop at any time; the same command continues.
Paths have the form of your system. backend=server collects on CARLA, see steerlab collect.

Examples:
  steerlab full-training output=runs/mine
  steerlab full-training train_episodes=50 val_episodes=10 epochs=20 contract=openpilot-0.10.1 output=runs/mine
  steerlab full-training output=runs/mine install_models=true confirm=true openpilot_root=~/openpilot
"""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from steerlab.agents.driving import load_driving, newest
from steerlab.envs.carla_driver.scenarios import as_scenario
from steerlab.errors import InputError
from steerlab.experiments import collect, export_policy, export_vision, train_driving
from steerlab.exporters.archive import write_archive
from steerlab.exporters.install import Given, install, prepare, recognise
from steerlab.exporters.safety import INTERFACE_ONLY, TRAINED_IN_SIMULATION
from steerlab.exporters.written import ChecksFailed
from steerlab.files import writable_folder
from steerlab.openpilot.contracts import Contract, contract
from steerlab.options import option
from steerlab.stages import Stages
from steerlab.study import options_of, study, within


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    scenario: tuple[str, ...] = option(("urban_intersection",), "scenarios by name, or .yaml files")
    train_episodes: int = option(50, "training episodes of each scenario")
    val_episodes: int = option(
        10, "validation episodes of each scenario, with other seeds; they select the best epoch"
    )
    export_dir: str = option("", "folder of the exported files; '' = output=/export")
    dataset_root: str = option("", "folder with train and val, the shards; '' = output=/data")
    contract: str = option("openpilot-0.10.0", "release for which the files are made")
    config_name: str = option("", "settings of train-driving, a .yaml file; '' = its defaults")
    training: tuple[str, ...] = option(
        (), "more options of train-driving, such as [size=small,diffusion.steps=4]"
    )
    epochs: int = option(0, "epochs of vision and of policy; 0 = as configured")
    checkpoint: str = option("", "export this epoch_NNNN.pt instead of training")
    skip_data_collection: bool = option(False, "use the existing shards")
    skip_training: bool = option(False, "export the newest existing checkpoint")
    skip_export: bool = option(False, "leave the exported files as they are")
    install_models: bool = option(False, "install the files into openpilot_root=")
    openpilot_root: str = option("", "a checkout of openpilot or sunnypilot")
    confirm: bool = option(False, "I have read the warning: change openpilot_root=")
    check: bool = option(True, "check the files as verify-export does")
    tinygrad: bool = option(True, "also write tinygrad pickles (needs clang)")
    map: str | None = option(
        None, "a map of the package or an .xodr file, in place of the scenario's"
    )
    steps: int | None = option(None, "length of an episode in steps of 0.05 s")
    processes: int = option(1, "processes, each of which collects one episode at a time")
    backend: str = option(
        "embedded", "embedded: the simulation of this package; server: a CARLA server"
    )
    carla_host: str = option("127.0.0.1", "host of the server")
    carla_port: int = option(2000, "port of the server")
    carla_root: str | None = option(None, "launch a server from this folder")
    ready_timeout: float = option(120.0, "time limit until a launched server answers, s")
    keep_carla_running: bool = option(False, "leave a launched server running")
    seed: int = option(0, "seed of data, weights and order")


#: What may differ when the same folder goes on.
FREE = (
    "skip_data_collection", "skip_training", "skip_export", "install_models", "openpilot_root",
    "confirm", "check", "processes", "carla_host", "carla_port", "carla_root", "ready_timeout",
    "keep_carla_running",
)  # fmt: skip


@dataclass
class Pipeline:
    """The stages of one run, and where their files are."""

    config: Config
    output: Path
    console: Console
    commands: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # checks of exported files

    @property
    def data(self) -> Path:
        """Folder of the data sets."""
        chosen = self.config.dataset_root
        return Path(chosen).expanduser() if chosen else self.output / "data"

    @property
    def exports(self) -> Path:
        """Folder of the exported files."""
        chosen = self.config.export_dir
        return Path(chosen).expanduser() if chosen else self.output / "export"

    @property
    def release(self) -> Contract:
        """The contract of the files."""
        return contract(self.config.contract)

    def stage(self, title: str, command: str, arguments: list[str], folder: Path) -> None:
        """Announce a stage, and note the command that does it by itself."""
        self.commands.append(shlex.join(["steerlab", command, *arguments, f"output={folder}"]))
        self.console.print(Rule(title))
        self.console.print(escape(self.commands[-1]), soft_wrap=True, highlight=False)

    def collect(self, use: str) -> None:
        """Collect the episodes that are missing of a data set, ``train`` or ``val``."""
        folder = self.data / use
        arguments = collecting(self.config, use)
        self.stage(f"{use} episodes", "collect", arguments, folder)
        within(collect.run, collect.Config, arguments, folder, collect.FREE)

    def train(self) -> Path:
        """Train, or go on; return the checkpoint."""
        folder, arguments = self.output / "training", training(self.config, self.data)
        self.stage("training", "train-driving", arguments, folder)

        def work() -> list[Path]:
            kept = train_driving.FREE
            return [within(train_driving.run, train_driving.Config, arguments, folder, kept)]

        return self.once("training", work)[0]

    def export(self, checkpoint: Path) -> list[Path]:
        """Write the files of both networks; return them."""
        folder = self.exports
        first, second = exporting(self.config, checkpoint, folder, self.data / "val")
        self.stage("export of the vision network", "export-vision", first, folder)
        self.stage("export of the policy", "export-policy", second, folder)

        def work() -> list[Path]:
            place, made = writable_folder(folder), set[Path]()
            for each, arguments in ((export_vision, first), (export_policy, second)):
                try:
                    made |= set(each.run(options_of(each.Config, arguments), place).files)
                except ChecksFailed as stop:  # the files are there, and worth an archive
                    made |= set(stop.files)
                    self.failed += stop.names
            return sorted(made)

        return self.once("export", work, checkpoint)

    def once(self, stage: str, work: Callable[[], list[Path]], *inputs: Path) -> list[Path]:
        """Return what a stage made, now or before; one whose files failed a check counts as not done."""
        made, before = Stages(self.output).once(stage, lambda: (work(), not self.failed), *inputs)
        if before:
            self.console.print("done before")
        return made

    def archive(self, checkpoint: Path, files: list[Path]) -> Path:
        """Keep what made the files."""
        settings = {
            "full_training.yaml": self.output / "config.yaml",
            "train_driving.yaml": self.output / "training" / "config.yaml",
        }
        data = {use: self.data / use for use in ("train", "val")}
        folder = self.output / "archive"
        return write_archive(folder, checkpoint, settings, data, files, self.commands)

    def install(self) -> None:
        """Put the files into the checkout."""
        root = self.config.openpilot_root
        self.stage(
            "installation", "install-models", [f"target={root}", "confirm=true"], self.output
        )
        names = {n: str(self.exports / f"{n}.onnx") for n in self.release.model_names}
        vision = Given(onnx=names.get("driving_vision", ""))
        policy = Given(onnx=names[self.release.policy_name])
        with TemporaryDirectory(prefix="steerlab-install-") as staging:
            place = Path(staging)
            check = not self.config.check
            plan = prepare(recognise(root), vision, policy, place, untrained=check)
            done = install(plan, place)
        for line in (*plan.notes, *done.smoke):
            self.console.print(escape(line), soft_wrap=True, highlight=False)
        self.console.print(f"what was there before: {done.backup or 'the same files'}")


def collecting(config: Config, use: str) -> list[str]:
    """Return the options of ``steerlab collect`` for a data set, ``train`` or ``val``."""
    train = use == "train"
    arguments = [
        f"scenario=[{','.join(config.scenario)}]",
        f"episodes={config.train_episodes if train else config.val_episodes}",
        f"seed={config.seed}",
        f"stream={'data' if train else 'validation'}",
        f"processes={config.processes}",
        f"contract={_trained_for(config)}",
        f"backend={config.backend}",
    ]
    arguments += [f"map={config.map}"] if config.map else []
    arguments += [f"steps={config.steps}"] if config.steps else []
    if config.backend == "embedded":
        return arguments
    keep = config.keep_carla_running
    # The server that the first collection leaves running is the second one's.
    launch = config.carla_root and not (keep and not train and config.train_episodes)
    return [
        *arguments,
        f"carla_host={config.carla_host}",
        f"carla_port={config.carla_port}",
        *([f"carla_root={config.carla_root}"] if launch else []),
        f"ready_timeout={config.ready_timeout}",
        f"keep_carla_running={str(keep).lower()}",
    ]


def training(config: Config, data: Path) -> list[str]:
    """Return the options of ``steerlab train-driving``; what is typed in training= counts most."""
    name = config.config_name
    arguments = ["--config-name", name] if name not in ("", "default") else []
    typed = {text.partition("=")[0] for text in config.training}
    ours = [
        "stage=all",
        f"dataset.train_path={data / 'train'}",
        *([f"dataset.val_path={data / 'val'}"] if config.val_episodes else []),
        f"contract={_trained_for(config)}",
        f"seed={config.seed}",
    ]
    if config.epochs:
        ours += [f"epochs={config.epochs}", f"policy.epochs={config.epochs}"]
    return [*arguments, *(t for t in ours if t.partition("=")[0] not in typed), *config.training]


def _trained_for(config: Config) -> str:
    """Return the contract of the training: that of the files, or the usual one for a single network."""
    chosen = contract(config.contract)
    return chosen.id if chosen.is_split else train_driving.Config().contract


def exporting(
    config: Config, checkpoint: Path, folder: Path, shards: Path
) -> tuple[list[str], list[str]]:
    """Return the options of ``steerlab export-vision`` and ``export-policy``."""
    release = contract(config.contract)
    # export-policy writes, builds and checks the vision network again, marked as one of a pair.
    vision = [f"checkpoint={checkpoint}", "check=false", "tinygrad=none"]
    vision += [f"contract={_trained_for(config)}"]
    vision += [f"shards={shards}"] if any(shards.glob("*.zarr")) else []
    pair = f"vision={folder / 'driving_vision.onnx'}"
    policy = [f"checkpoint={checkpoint}", f"check={str(config.check).lower()}"]
    policy += [] if config.tinygrad else ["tinygrad=none"]
    return vision, [*policy, f"contract={release.id}", pair]


def run(config: Config, output: Path) -> dict[str, Any]:
    """Do every stage that is asked for; return the checkpoint and the exported files."""
    console = Console()
    line = Pipeline(config, output, console)
    _check(config, line)
    if not config.skip_data_collection:
        for use, episodes in (("train", config.train_episodes), ("val", config.val_episodes)):
            if episodes:
                line.collect(use)
    if config.checkpoint:
        checkpoint = Path(config.checkpoint).expanduser()
    elif config.skip_training:
        checkpoint = _newest(output)
    else:
        checkpoint = line.train()
    files = sorted(line.exports.glob("driving_*"))
    if not config.skip_export:
        files = line.export(checkpoint)
    archive = line.archive(checkpoint, files)
    console.print(f"[bold red]{TRAINED_IN_SIMULATION}[/]\n{INTERFACE_ONLY}")
    if config.install_models and not line.failed:
        line.install()
    console.print(Rule("done"))
    for path in (checkpoint, *files, archive):
        console.print(escape(str(path)), soft_wrap=True, highlight=False)
    if line.failed:
        left_out = "; nothing was installed" if config.install_models else ""
        sys.exit(f"{len(line.failed)} checks failed: {', '.join(line.failed)}{left_out}")
    return {"checkpoint": checkpoint, "files": files, "archive": archive}


def _check(config: Config, line: Pipeline) -> None:
    """Refuse what cannot work before any work starts.

    Raises:
        InputError: An option is wrong, or what a left-out stage should have made is missing.
    """
    if config.train_episodes < 0 or config.val_episodes < 0:
        raise InputError("train_episodes and val_episodes must not be negative")
    for name in config.scenario:
        as_scenario(name)
    trains = not (config.checkpoint or config.skip_training)
    if trains:
        options_of(train_driving.Config, training(config, line.data))
    if not config.skip_data_collection:
        options_of(collect.Config, collecting(config, "train"))
        if trains and not config.train_episodes:
            raise InputError("train_episodes=0 leaves nothing to learn from")
    elif trains and not any((line.data / "train").glob("*.zarr")):
        raise InputError(
            f"skip_data_collection=true, but there are no shards in {str(line.data / 'train')!r}; "
            "collect them, or give dataset_root="
        )
    if config.checkpoint:
        load_driving(Path(config.checkpoint).expanduser())
    elif config.skip_training:
        _newest(line.output)
    if config.install_models:
        _check_installation(config, line)


def _check_installation(config: Config, line: Pipeline) -> None:
    """Refuse an installation that cannot work.

    Raises:
        InputError: The checkout, the confirmation or a file is missing, or the contract is another one.
    """
    names = [f"{name}.onnx" for name in line.release.model_names]
    missing = [name for name in names if not (line.exports / name).is_file()]
    if config.skip_export and missing:
        raise InputError(f"skip_export=true, but {missing[0]} is not in {str(line.exports)!r}")
    if not config.openpilot_root:
        raise InputError("install_models=true needs openpilot_root=, a checkout")
    if not config.confirm:
        raise InputError(f"{TRAINED_IN_SIMULATION} To install all the same, add confirm=true")
    needs = recognise(config.openpilot_root).accepts
    if line.release.id not in needs:
        raise InputError(f"{config.openpilot_root!r} needs contract={needs[0]}")


def _newest(output: Path) -> Path:
    """Return the newest checkpoint of a run.

    Raises:
        InputError: There is none.
    """
    found = newest(output / "training")
    if found is None:
        raise InputError(
            f"there is no checkpoint in {str(output / 'training')!r}: leave skip_training= out, or give "
            "checkpoint="
        )
    return found


main = study(Config, run, resumes=True, free=FREE)

if __name__ == "__main__":
    main()
