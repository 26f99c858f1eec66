"""What every study shares: options from a dataclass, Hydra overrides, help, and clean errors.

A study module has a docstring, a dataclass ``Config`` made with
:func:`steerlab.options.option`, a function
``run(config, output)`` and the line ``main = study(Config, run)``. That makes it a sub-command of
``steerlab`` and, through ``python -m``, a script of its own.
"""

import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Sequence
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
from rich.console import Console
from rich.table import Table

from steerlab.errors import InputError, unknown_name
from steerlab.files import atomic_path, writable_folder

CONFIG_FILE = "config.yaml"

_HYDRA_HELP = """\
Hydra's own flags work too: --multirun with seed=1,2,3 or seed=range(10) runs several settings,
--cfg job prints the settings and stops, hydra/launcher=... sends a multirun to a cluster."""


def study(
    config_type: type[Any],
    run: Callable[[Any, Path], Any],
    *,
    resumes: bool = False,
) -> Callable[..., None]:
    """Return the ``main`` of a study.

    Args:
        config_type: Dataclass of options. The option ``output`` is added to it.
        run: Called with the options and the output folder, which exists and can be written.
        resumes: The study continues what it finds in an existing output folder. The settings
            saved there must then be the same, so that one result never mixes two settings.
    """
    module = sys.modules[run.__module__]
    spec = getattr(module, "__spec__", None)
    name = (spec.name if spec else run.__module__).rpartition(".")[2]
    command = name.replace("_", "-")

    def main(argv: Sequence[str] | None = None) -> None:
        arguments = list(sys.argv[1:] if argv is None else argv)
        if {"-h", "--help"} & set(arguments):
            _print_help(command, module.__doc__ or "", config_type)
            return
        try:
            _check_overrides(arguments, config_type)
            _run_hydra(name, arguments, config_type, run, resumes)
        except InputError as error:
            sys.exit(f"steerlab {command}: {error}")
        except (HydraException, OmegaConfBaseException) as error:
            sys.exit(f"steerlab {command}: {_one_line(error)} (see --help)")
        except KeyboardInterrupt as stop:
            text = f"\nsteerlab {command}: interrupted."
            if resumes and stop.args:
                same = [a for a in arguments if not a.startswith("output=")]
                again = shlex.join(["steerlab", command, *same, f"output={stop.args[0]}"])
                text += f" To go on from there: {again}"
            sys.exit(text)

    return main


def _run_hydra(
    name: str,
    arguments: list[str],
    config_type: type[Any],
    run: Callable[[Any, Path], Any],
    resumes: bool,
) -> None:
    """Compose the settings through Hydra and call ``run`` once for each job."""
    _store(name, config_type)

    def job(settings: DictConfig) -> Any:
        output = Path(HydraConfig.get().runtime.output_dir)
        many = HydraConfig.get().mode is RunMode.MULTIRUN
        try:
            config = _to_dataclass(config_type, settings)
            _save_config(settings, writable_folder(output), resumes)
            return run(config, output)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(output.parent if many else output) from None
        except InputError as error:
            if many:  # in whatever process the launcher has put this job
                raise
            # Before any other exception Hydra prints a line with the overrides.
            sys.exit(f"steerlab {name.replace('_', '-')}: {error}")

    # Hydra's parser wants all overrides in one row.
    ordered = sorted(arguments, key=lambda a: "=" in a and not a.startswith("-"))
    old_argv, sys.argv = sys.argv, [f"steerlab-{name}", *ordered]
    try:
        # Without this Hydra prints its own report of every exception and exits.
        with mock.patch.dict(os.environ, HYDRA_FULL_ERROR="1"):
            hydra.main(version_base="1.3", config_path=None, config_name=name)(job)()
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


def _save_config(settings: DictConfig, output: Path, resumes: bool) -> None:
    """Write the settings beside the result, or hold them against those of the run to resume."""
    path = output / CONFIG_FILE
    plain = OmegaConf.to_container(settings, resolve=True)
    assert isinstance(plain, dict)
    plain.pop("output", None)
    if resumes and path.exists():
        saved = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(saved, dict)
        different = sorted(
            str(key) for key in plain.keys() | saved.keys() if plain.get(key) != saved.get(key)
        )
        if different:
            changes = ", ".join(f"{k}={plain.get(k)} (was {saved.get(k)})" for k in different)
            raise InputError(
                f"{path} belongs to a run with other settings: {changes}; "
                "repeat those settings to resume it, or choose another output="
            )
    with atomic_path(path) as temporary:
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(plain)), encoding="utf-8")


def _print_help(command: str, text: str, config_type: type[Any]) -> None:
    console = Console()
    console.print(text.strip(), markup=False, highlight=False, soft_wrap=True)
    console.print(f"\n[bold]usage:[/] steerlab {command} \\[option=value ...]\n", highlight=False)
    table = Table("option", "default", "meaning", box=None, header_style="bold")
    for name, default, help in _options(config_type):
        table.add_row(name, default, help)
    table.add_row("output", "runs/...", "folder of the results; an existing one is continued "
                  "where the study can resume")  # fmt: skip
    console.print(table)
    console.print("\n" + _HYDRA_HELP, markup=False, highlight=False, soft_wrap=True)


def _options(config_type: type[Any], prefix: str = "") -> list[tuple[str, str, str]]:
    """Return name, default and help of every option, those of nested dataclasses included."""
    rows = []
    for f in dataclasses.fields(config_type):
        if f.default is not dataclasses.MISSING:
            default = f.default
        elif f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        else:
            default = "???"
        if dataclasses.is_dataclass(default):
            rows += _options(type(default), f"{prefix}{f.name}.")
        else:
            shown = "null" if default is None else str(default).replace("True", "true")
            rows.append(
                (prefix + f.name, shown.replace("False", "false"), f.metadata.get("help", ""))
            )
    return rows
