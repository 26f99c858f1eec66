"""What every study shares: options from a dataclass, Hydra overrides, help, and clean errors.

A study module has a docstring, a dataclass ``Config`` made with
:func:`steerlab.options.option`, a function
``run(config, output)`` and the line ``main = study(Config, run)``. That makes it a sub-command of
``steerlab`` and, through ``python -m``, a script of its own.
"""

import dataclasses
import errno
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from steerlab.errors import InputError
from steerlab.files import HIDDEN, atomic_path, owned_folder, writable_folder
from steerlab.processes import Terminated, process_rank, terminable
from steerlab.readers.text import read_yaml
from steerlab.settings import different_settings, study_settings
from steerlab.study_arguments import MULTIRUN, SHOWING, overrides_of, shorten, writable
from steerlab.study_files import from_file, take_flags, with_file
from steerlab.study_help import print_help

CONFIG_FILE = "config.yaml"
#: Hydra takes folders beside its configurations for groups of options: envs=2 would mean steerlab/envs.
_NO_GROUPS = "pkg://hydra.conf"
#: What an operating system says of a full, read-only or failing disk.
_STORAGE_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
}  # fmt: skip


class _JobError(BaseException):
    """Carries an error past Hydra, which would print its own line on it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def study(
    config_type: type[Any],
    run: Callable[[Any, Any], Any],
    *,
    resumes: bool = False,
    free: Sequence[str] = (),
    folder: bool = True,
) -> Callable[..., None]:
    """Return the ``main`` of a study.

    Args:
        config_type: Dataclass of options. The option ``output`` is added to it.
        run: Called with the options and the output folder, which exists and can be written; or with
            None for it, see ``folder``.
        resumes: The study continues what it finds in an existing output folder.
        free: Options that may differ when it does: the same folder then belongs to them all.
        folder: The study has results to keep, so it gets a folder below ``runs`` where ``output`` names
            none. Without it, it only prints something: it has a folder if ``output`` names one.
    """
    module = sys.modules[run.__module__]
    spec = getattr(module, "__spec__", None)
    name = (spec.name if spec else run.__module__).rpartition(".")[2]
    if name == "__main__":  # a script of its own
        name = Path(module.__file__ or "study").stem
    command = name.replace("_", "-")

    def main(argv: Sequence[str] | None = None) -> None:
        arguments = list(sys.argv[1:] if argv is None else argv)
        if {"-h", "--help"} & set(arguments):
            print_help(command, module.__doc__ or "", config_type)
            return
        try:
            told = with_file(arguments, config_type, command)
            if told is None:
                return
            with terminable():
                _run_hydra(name, overrides_of(told, config_type), config_type, run, free, folder)
        except InputError as error:
            sys.exit(f"steerlab {command}: {shorten(str(error), arguments)}")
        except (HydraException, OmegaConfBaseException) as error:
            text = shorten(_one_line(error), arguments)
            sys.exit(f"steerlab {command}: {text} (see --help)")
        except OSError as error:
            if error.errno not in _STORAGE_ERRORS:
                raise
            sys.exit(f"steerlab {command}: {_cannot_write(error)}")
        except KeyboardInterrupt as stop:
            print(_stopped(command, arguments, stop, resumes), file=sys.stderr)
            sys.exit(128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT))

    return main


def _stopped(command: str, arguments: Sequence[str], stop: KeyboardInterrupt, resumes: bool) -> str:
    """Return what is said of an interrupted run; ``stop`` carries its folder where there is one."""
    text = f"\nsteerlab {command}: stopped."
    if resumes and stop.args:
        same = [a for a in arguments if not a.startswith("output=")]
        again = shlex.join(["steerlab", command, *same, f"output={stop.args[0]}"])
        text += f" To go on from there: {again}"
    return text


def _cannot_write(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return (
        f"cannot write: {error.strerror}{where}; make room or give another output=; what is there "
        "already is kept"
    )


def within(
    run: Callable[[Any, Path], Any],
    config_type: type[Any],
    arguments: Sequence[str],
    output: str | Path,
    free: Sequence[str] = (),
) -> Any:
    """Run a study inside of another one, as its command would: options checked, folder owned, settings kept.

    Args:
        run: As for :func:`study`.
        config_type: As for :func:`study`.
        arguments: What one would type after the command, ``output=`` left out.
        output: Folder of its results, made if needed.
        free: As for :func:`study`.

    Raises:
        InputError: An option is wrong, or the folder belongs to a run with other settings.
    """
    settings = _composed(config_type, arguments)
    folder = writable_folder(output)
    with owned_folder(folder), study_settings(_save_config(settings, folder, free)):
        return run(OmegaConf.to_object(settings), folder)


def options_of(config_type: type[Any], arguments: Sequence[str]) -> Any:
    """Return a study's options for what one would type after its command.

    Raises:
        InputError: An option is wrong.
    """
    return OmegaConf.to_object(_composed(config_type, arguments))


def _composed(config_type: type[Any], arguments: Sequence[str]) -> DictConfig:
    """Return the settings that arguments stand for."""
    settings: DictConfig = writable(OmegaConf.structured(config_type))
    flags, typed = take_flags(arguments)
    for text in overrides_of(from_file(flags, typed), config_type):
        override = OverridesParser.create().parse_override(text)
        OmegaConf.update(settings, override.key_or_group, override.value())
    return settings


def _run_hydra(
    name: str,
    arguments: list[str],
    config_type: type[Any],
    run: Callable[[Any, Any], Any],
    free: Sequence[str] = (),
    folder: bool = True,
) -> None:
    """Compose the settings through Hydra and call ``run`` once for each job."""
    _store(name, config_type, folder)
    if not folder and set(MULTIRUN) & set(arguments) and not _typed_output(arguments):
        raise InputError("this study keeps no results of its own; with --multirun, give it output=")
    if not set(SHOWING) & set(arguments):
        _make_output(arguments)

    def job(settings: DictConfig) -> Any:
        output = _output_of(settings)
        config = _to_dataclass(config_type, settings)
        follows = process_rank() > 0  # the first process owns the folder for all
        if follows and folder and not settings.output:
            raise InputError("several processes need one folder: give output=")
        try:
            if not (folder or settings.output):
                return run(config, None)
            with (
                nullcontext() if follows else owned_folder(output),
                study_settings(_save_config(settings, output, free, follows)),
            ):
                try:
                    return run(config, output)
                except InputError:
                    _forget_unused(output)
                    raise
        except KeyboardInterrupt as stop:
            raise type(stop)(jobs_folder(output)) from None
        except Exception as error:
            raise _JobError(error) from error

    # Hydra's parser wants all overrides in one row.
    ordered = sorted(arguments, key=lambda a: "=" in a and not a.startswith("-"))
    old_argv, sys.argv = sys.argv, [f"steerlab-{name}", *ordered]
    try:
        # Without this Hydra prints its own report of every exception and exits.
        with mock.patch.dict(os.environ, HYDRA_FULL_ERROR="1"):
            hydra.main(version_base="1.3", config_path=_NO_GROUPS, config_name=name)(job)()
    except _JobError as failed:
        raise failed.error from failed.error.__cause__
    finally:
        sys.argv = old_argv


def _store(name: str, config_type: type[Any], keeps_folder: bool = True) -> None:
    """Register the schema of a study and where Hydra puts its results."""
    OmegaConf.register_new_resolver("steerlab.either", lambda a, b: a or b, replace=True)
    with_output = dataclasses.make_dataclass(
        config_type.__name__, [("output", str | None, None)], bases=(config_type,), frozen=True
    )
    schema = writable(OmegaConf.structured(with_output))
    default = "runs/" + name + "/${now:%Y-%m-%d_%H-%M-%S}" if keeps_folder else "."
    folder = "${steerlab.either:${output}," + default + "}"
    store = ConfigStore.instance()
    store.store(name=f"{name}_schema", node=schema)
    store.store(
        name=name,
        node=OmegaConf.create(
            {
                "defaults": [
                    f"{name}_schema",
                    "_self_",
                    {"override hydra/job_logging": "none"},
                    {"override hydra/hydra_logging": "none"},
                ],
                "hydra": {
                    "run": {"dir": folder},
                    "sweep": {"dir": folder, "subdir": "${hydra.job.num}"},
                    "output_subdir": None,
                },
            }
        ),
    )


def _make_output(arguments: Sequence[str]) -> None:
    """Make the folder that is asked for; Hydra's own complaint would be a traceback."""
    if value := _typed_output(arguments):
        writable_folder(OmegaConf.create({"output": str(value)})["output"])


def _typed_output(arguments: Sequence[str]) -> Any:
    """Return the value of ``output=``, None without one."""
    typed = [a for a in arguments if a.startswith("output=")]
    return OverridesParser.create().parse_override(typed[-1]).value() if typed else None


def _output_of(settings: DictConfig) -> Path:
    """Return the folder of a job: as typed, which Hydra would read as text with interpolations."""
    job = HydraConfig.get()
    if not settings.output:
        return Path(job.runtime.output_dir)
    folder = Path(settings.output)
    return folder / str(job.job.num) if job.mode is RunMode.MULTIRUN else folder


def jobs_folder(output: Path) -> Path:
    """Return the folder that all jobs of a ``--multirun`` share; of a single run its own, ``output``."""
    many = HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
    return output.parent if many else output


def latest_result(study: str, name: str) -> str:
    """Return the newest file of a study's runs in ``runs/``, where it writes by default.

    Args:
        study: Name of the study's module, such as ``train_trc``.
        name: Name of the file.

    Raises:
        InputError: The study has not run here.
    """
    found = sorted(Path("runs", study).glob(f"*/{name}"), key=lambda path: path.stat().st_mtime)
    if not found:
        command = study.replace("_", "-")
        raise InputError(
            f"there is no {name} in runs/{study}; run steerlab {command} first, or give the file"
        )
    return str(found[-1])


def _to_dataclass(config_type: type[Any], settings: DictConfig) -> Any:
    """Return the settings as the study's own dataclass, without the added option ``output``."""
    chosen: Any = OmegaConf.to_object(settings)
    return config_type(**{f.name: getattr(chosen, f.name) for f in dataclasses.fields(config_type)})


def _one_line(error: Exception) -> str:
    """Return Hydra's message and that of its cause, without the lines on where it was raised."""
    parts = [error] if error.__cause__ is None else [error, error.__cause__]
    texts = [str(part).partition("full_key")[0] for part in parts]
    return " ".join(": ".join(dict.fromkeys(texts)).split())


def _forget_unused(output: Path) -> None:
    """Remove the settings of a run that made nothing, so that the mended command can use the folder."""
    settings = (output / HIDDEN / "settings.yaml", output / CONFIG_FILE)
    if not output.is_dir():
        return  # it was removed during the run
    if not any(path.name not in (HIDDEN, CONFIG_FILE) for path in output.iterdir()):
        for path in settings:
            path.unlink(missing_ok=True)


def _save_config(
    settings: DictConfig, output: Path, free: Sequence[str] = (), follows: bool = False
) -> dict[str, Any]:
    """Write the settings beside the result, and return those that a run must share to go on with it.

    A folder belongs to one set of settings. It is kept twice, so that a result is known by its settings
    even if config.yaml was edited or removed.

    Raises:
        InputError: The folder holds the result of other settings.
    """
    plain = OmegaConf.to_container(settings, resolve=True)
    assert isinstance(plain, dict)
    plain.pop("output", None)
    chosen = {str(key): value for key, value in plain.items()}
    shared = {name: value for name, value in chosen.items() if name not in free}
    if follows:
        return shared
    for path in (output / HIDDEN / "settings.yaml", output / CONFIG_FILE):
        if not path.exists():
            continue
        saved = {**read_yaml(path), **{name: chosen[name] for name in free}}
        if changes := different_settings(chosen, saved):
            raise InputError(
                f"{str(output / CONFIG_FILE)!r} belongs to a run with other settings: {changes}; "
                "repeat those settings, or choose another output="
            )
    for path in (output / HIDDEN / "settings.yaml", output / CONFIG_FILE):
        if not path.exists():
            with atomic_path(path) as temporary:
                temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(plain)), encoding="utf-8")
    return shared
