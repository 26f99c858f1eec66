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
from pathlib import Path
from typing import Any, get_origin, get_type_hints
from unittest import mock

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from steerlab.errors import InputError, unknown_name
from steerlab.files import HIDDEN, atomic_path, owned_folder, writable_folder
from steerlab.processes import Terminated, terminable
from steerlab.readers.text import read_yaml
from steerlab.settings import different_settings, study_settings
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
    run: Callable[[Any, Path], Any],
    *,
    resumes: bool = False,
    free: Sequence[str] = (),
) -> Callable[..., None]:
    """Return the ``main`` of a study.

    Args:
        config_type: Dataclass of options. The option ``output`` is added to it.
        run: Called with the options and the output folder, which exists and can be written.
        resumes: The study continues what it finds in an existing output folder.
        free: Options that may differ when it does: the same folder then belongs to them all.
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
            arguments = _with_lists(arguments, config_type)
            with terminable():
                _check_overrides(arguments, config_type)
                _run_hydra(name, arguments, config_type, run, free)
        except InputError as error:
            sys.exit(f"steerlab {command}: {error}")
        except (HydraException, OmegaConfBaseException) as error:
            sys.exit(f"steerlab {command}: {_one_line(error)} (see --help)")
        except OSError as error:
            if error.errno not in _STORAGE_ERRORS:
                raise
            where = f" ({error.filename})" if error.filename else ""
            sys.exit(
                f"steerlab {command}: cannot write: {error.strerror}{where}; make room or give "
                "another output=; what is there already is kept"
            )
        except KeyboardInterrupt as stop:
            text = f"\nsteerlab {command}: stopped."
            if resumes and stop.args:
                same = [a for a in arguments if not a.startswith("output=")]
                again = shlex.join(["steerlab", command, *same, f"output={stop.args[0]}"])
                text += f" To go on from there: {again}"
            print(text, file=sys.stderr)
            sys.exit(128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT))

    return main


def _run_hydra(
    name: str,
    arguments: list[str],
    config_type: type[Any],
    run: Callable[[Any, Path], Any],
    free: Sequence[str] = (),
) -> None:
    """Compose the settings through Hydra and call ``run`` once for each job."""
    _store(name, config_type)

    def job(settings: DictConfig) -> Any:
        output = Path(HydraConfig.get().runtime.output_dir)
        config = _to_dataclass(config_type, settings)
        try:
            with owned_folder(output), study_settings(_save_config(settings, output, free)):
                try:
                    return run(config, output)
                except InputError:
                    _forget_unused(output)
                    raise
        except KeyboardInterrupt as stop:
            many = HydraConfig.get().mode is RunMode.MULTIRUN
            raise type(stop)(output.parent if many else output) from None
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


def _store(name: str, config_type: type[Any]) -> None:
    """Register the schema of a study and where Hydra puts its results."""
    OmegaConf.register_new_resolver("steerlab.either", lambda a, b: a or b, replace=True)
    with_output = dataclasses.make_dataclass(
        config_type.__name__, [("output", str | None, None)], bases=(config_type,), frozen=True
    )
    schema = _writable(OmegaConf.structured(with_output))
    folder = "${steerlab.either:${output},runs/" + name + "/${now:%Y-%m-%d_%H-%M-%S}}"
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


def _writable(node: Any) -> Any:
    """Clear the read-only flag that frozen dataclasses carry: overrides come before freezing."""
    if isinstance(node, DictConfig):
        OmegaConf.set_struct(node, None)
        OmegaConf.set_readonly(node, False)
        for key in node:
            if not OmegaConf.is_missing(node, key):
                _writable(node._get_node(key))
    return node


def _to_dataclass(config_type: type[Any], settings: DictConfig) -> Any:
    """Return the settings as the study's own dataclass, without the added option ``output``."""
    chosen = _writable(OmegaConf.structured(config_type))
    for field in dataclasses.fields(config_type):
        chosen[field.name] = settings[field.name]
    return OmegaConf.to_object(chosen)


def _one_line(error: Exception) -> str:
    """Return Hydra's message and that of its cause, without the lines on where it was raised."""
    parts = [error] if error.__cause__ is None else [error, error.__cause__]
    texts = [str(part).partition("full_key")[0] for part in parts]
    return " ".join(": ".join(dict.fromkeys(texts)).split())


def _with_lists(arguments: Sequence[str], config_type: type[Any]) -> list[str]:
    """Return the arguments with brackets around one value that is given for a list."""
    hints = get_type_hints(config_type)
    lists = {name for name, hint in hints.items() if get_origin(hint) in (list, tuple)}

    def bracketed(argument: str) -> str:
        name, equals, value = argument.partition("=")
        alone = value and value != "null" and not set(value) & set("[](){}$,")
        return f"{name}=[{value}]" if equals and name in lists and alone else argument

    return [bracketed(argument) for argument in arguments]


def _check_overrides(arguments: Sequence[str], config_type: type[Any]) -> None:
    """Reject an option that does not exist, before Hydra starts.

    Raises:
        InputError: A name is not an option of the study; the nearest option is suggested.
    """
    known = {f.name for f in dataclasses.fields(config_type)} | {"output"}
    overrides = [a for a in arguments if not a.startswith("-")]
    for argument in overrides:
        if "=" not in argument and not argument.startswith("~"):
            if Path(arguments[arguments.index(argument) - 1]).name.startswith("--"):
                continue  # the value of a Hydra flag, such as --config-dir presets
            raise InputError(f"{argument!r} is not of the form option=value; see --help")
    parser = OverridesParser.create()
    for argument in [a for a in overrides if "=" in a]:
        try:
            override = parser.parse_override(argument)
        except HydraException as error:
            reason = _one_line(error).partition(" See http")[0]
            raise InputError(f"cannot read {argument!r}: {reason}; quote special signs") from error
        head = override.key_or_group.partition(".")[0].partition("/")[0]
        if head != "hydra" and head not in known and not override.is_add():
            raise unknown_name("option", override.key_or_group, known)
        if head == "output" and not override.is_sweep_override():
            writable_folder(str(override.value()))  # Hydra's own complaint would be a traceback


def _forget_unused(output: Path) -> None:
    """Remove the settings of a run that made nothing, so that the mended command can use the folder."""
    settings = (output / HIDDEN / "settings.yaml", output / CONFIG_FILE)
    if not any(path.name not in (HIDDEN, CONFIG_FILE) for path in output.iterdir()):
        for path in settings:
            path.unlink(missing_ok=True)


def _save_config(settings: DictConfig, output: Path, free: Sequence[str] = ()) -> dict[str, Any]:
    """Write the settings beside the result and return them.

    A folder belongs to one set of settings. It is kept twice, so that a result is known by its settings
    even if config.yaml was edited or removed.

    Raises:
        InputError: The folder holds the result of other settings.
    """
    plain = OmegaConf.to_container(settings, resolve=True)
    assert isinstance(plain, dict)
    plain.pop("output", None)
    chosen = {str(key): value for key, value in plain.items()}
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
    return chosen
