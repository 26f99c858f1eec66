"""What a folder is: a checkout of openpilot or sunnypilot of some generation, or a folder of models.

Nothing of a target is executed here. Its generation follows from what its ``modeld.py`` names: the
inputs that it feeds and the files that it loads (commaai/openpilot, sunnypilot/sunnypilot).
"""

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from steerlab.errors import InputError
from steerlab.exporters.install.fit import fitting
from steerlab.openpilot.contracts import contract, contract_ids
from steerlab.openpilot.metadata import read_metadata
from steerlab.readers.text import read_text

OPENPILOT, SUNNYPILOT, BUNDLE, FOLDER = "openpilot", "sunnypilot", "bundle", "folder"
#: Where modeld is in a checkout: to mid 2026 at the top, then inside the package openpilot.
LAYOUTS = ("selfdrive/modeld", "openpilot/selfdrive/modeld")
_BUNDLE_FOLDERS = ("sunnypilot/modeld_v2", "openpilot/sunnypilot/modeld_v2")
#: What lies at the top of a checkout.
_TOP = ("tinygrad_repo", "SConstruct", "launch_openpilot.sh", ".git")
_BUNDLE_FILE = re.compile(r"driving_(?:vision|policy)_(.+)_(?:tinygrad|metadata)\.pkl")
#: A pickle for each network, which we can make; later one pickle joins warp, queues and networks.
_SEPARATE = re.compile(r"driving_policy_tinygrad")


@dataclass(frozen=True)
class Generation:
    """How one generation of modeld is recognised: patterns that its ``modeld.py`` has and lacks."""

    contract: str
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()


_GRAPH_OF_WARP = r"warp_\{|compile_warp|compile_modeld"
#: The newest first.
GENERATIONS = (
    Generation("openpilot-supercombo-2026-09", ("output_buffers",)),
    Generation("openpilot-supercombo-2026-07", ("action_t", "compile_modeld"), ("prepare_only",)),
    Generation("openpilot-supercombo-2026-06", ("action_t", "compile_modeld", "prepare_only")),
    Generation("openpilot-0.11.0", ("desire_pulse", "driving_policy", _GRAPH_OF_WARP)),
    Generation("openpilot-0.11.0", ("desire_pulse", r"\bpolicy_pkl_path", _GRAPH_OF_WARP)),
    Generation("openpilot-0.11.0", ("desire_pulse", "compile_modeld"), ("action_t",)),
    Generation("openpilot-0.10.1", ("desire_pulse", "driving_policy")),
    Generation(
        "openpilot-0.10.0",
        ("lateral_control_params", "prev_desired_curv", "get_curvature_from_plan"),
        ("desire_pulse",),
    ),
    Generation(
        "sunnypilot-2025-08",
        ("driving_policy", r"\bdesire\b", "get_curvature_from_plan"),
        ("desire_pulse", "lateral_control_params"),
    ),
)
#: What no contract of ours describes, and why.
_UNKNOWN = (
    (r"driving_on_policy|driving_off_policy", "it loads an on-policy and an off-policy network"),
    (r"supercombo", "its supercombo is older than the separate vision and policy networks"),
    (r"lateral_control_params", "it steers by the head desired_curvature, as before 0.10.0"),
)


@dataclass(frozen=True)
class Target:
    """Where models go, and what they must be.

    Attributes:
        kind: ``openpilot``, ``sunnypilot``, ``bundle`` (of sunnypilot's modeld_v2) or ``folder``.
        models: The folder that the files go to.
        accepts: Contracts that fit; one for a checkout, several for a bundle.
        tree: The checkout whose code loads the files, None if it is not known.
        modeld: Its folder with the parser and the metadata script.
        separate: It loads a pickle for each network.
        name: Short name of a bundle, a part of its files' names.
        version: What the checkout says of itself.
        notes: What is worth knowing.
    """

    kind: str
    models: Path
    accepts: tuple[str, ...]
    tree: Path | None = None
    modeld: Path | None = None
    separate: bool = True
    name: str = ""
    version: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def tinygrad(self) -> Path | None:
        """The checkout's own tinygrad, None if it is not there (a submodule that was not fetched)."""
        folder = self.tree / "tinygrad_repo" if self.tree else None
        return folder if folder and (folder / "tinygrad" / "__init__.py").is_file() else None

    def file(self, network: str, ending: str) -> str:
        """Return the name that a file of a network has here, for example with ``tinygrad.pkl``."""
        if ending == "onnx":
            return f"{network}.onnx"
        return "_".join(part for part in (network, self.name, ending) if part)

    def describe(self) -> str:
        """Return it in a line."""
        what = f"{self.kind} {self.version}".strip()
        if self.name:
            what += f" {self.name!r}"
        return f"{what}, models in {self.models}, needs {' or '.join(self.accepts)}"


def expand(path: str | Path) -> Path:
    """Return a path with ``~``, ``$NAME`` and, on any system, ``%NAME%`` put in.

    Raises:
        InputError: A variable is not set.
    """
    text = re.sub(r"%(\w+)%", r"${\1}", str(path))
    text = os.path.expanduser(os.path.expandvars(text))
    if missing := re.search(r"\$\{?(\w+)\}?", text):
        raise InputError(f"{str(path)!r}: the environment variable {missing[1]} is not set")
    if os.sep != "\\" and "%" in str(path):
        text = text.replace("\\", "/")
    return Path(text)


def recognise(
    path: str | Path, tree: str | Path = "", contract_id: str = "", name: str = ""
) -> Target:
    r"""Say what a folder is.

    Args:
        path: A checkout or a folder in it, a folder of sunnypilot's model bundles, or one with models
            alone, such as ``%LOCALAPPDATA%\comma\modeld``.
        tree: Checkout whose modeld loads a folder outside of it.
        contract_id: The contract, where neither code nor models in the folder show it.
        name: Short name of a bundle.

    Raises:
        InputError: It is none of these, or of a generation that no contract describes.
    """
    folder = expand(path).absolute()
    if not folder.is_dir():
        raise InputError(
            f"target={str(path)!r} is no folder; give a checkout or a folder of models"
        )
    if contract_id:
        contract(contract_id)
    names = sorted({m[1] for f in folder.iterdir() if (m := _BUNDLE_FILE.fullmatch(f.name))})
    root = _root_of(folder)
    if root and any(folder.is_relative_to(root / part) for part in _BUNDLE_FOLDERS):
        raise InputError(
            f"{str(folder)!r} is modeld_v2's code; its bundles lie elsewhere (/data/media/0/models, on a "
            f"PC ~/.comma/media/0/models): give that as target= with name= and tree={root}"
        )
    if root is None and (name or names):
        code = _root_of(expand(tree).absolute()) if tree else None
        return _bundle(folder, code, contract_id, name, names)
    if root is not None:
        if name:
            raise InputError(f"name={name!r} belongs to a folder of bundles, not to {str(root)!r}")
        found = _checkout(root)
        if contract_id and contract_id not in found.accepts:
            raise InputError(
                f"contract={contract_id!r}, but {str(root)!r} needs {found.accepts[0]}: leave "
                "contract= out, or give another target="
            )
        return found
    return _folder(folder, tree, contract_id)


def _root_of(folder: Path) -> Path | None:
    """Return the checkout that a folder is or lies in."""
    for root in (folder, *folder.parents):
        if any((root / layout / "modeld.py").is_file() for layout in LAYOUTS):
            return root.parent if _is_package(root) else root
    return None


def _is_package(folder: Path) -> bool:
    """Tell whether a folder is the package ``openpilot`` of a checkout and not a checkout of that name."""
    inside, outside = ({n for n in _TOP if (f / n).exists()} for f in (folder, folder.parent))
    return folder.name == "openpilot" and bool(outside) and not inside


def _checkout(root: Path) -> Target:
    """Return a checkout as a target."""
    modeld = next(root / part for part in LAYOUTS if (root / part / "modeld.py").is_file())
    text = read_text(modeld / "modeld.py")
    generation = _generation(text, root)
    sunny = any((root / part).is_dir() for part in ("sunnypilot", "openpilot/sunnypilot"))
    release = contract(generation.contract)
    separate = release.tinygrad_device is not None and bool(_SEPARATE.search(text))
    target = Target(
        SUNNYPILOT if sunny else OPENPILOT,
        modeld / "models",
        (generation.contract,),
        root,
        modeld,
        separate,
        version=_version(root),
    )
    if not target.models.is_dir():
        raise InputError(f"{str(target.models)!r} is missing; is {str(root)!r} a whole checkout?")
    notes = []
    if separate and target.tinygrad is None:
        notes.append(
            f"{root / 'tinygrad_repo'} is empty: git submodule update --init tinygrad_repo"
        )
    if sunny:
        notes.append(
            "sunnypilot loads these files while no bundle is chosen in its list of models; for one "
            "give target= its folder of bundles and name="
        )
    return replace(target, notes=tuple(notes))


def _generation(text: str, root: Path) -> Generation:
    """Return the generation of a ``modeld.py``.

    Raises:
        InputError: There is none.
    """
    on_policy, *older = _UNKNOWN
    if re.search(on_policy[0], text):
        raise InputError(f"{str(root)!r}: {on_policy[1]}, which no contract describes")
    for row in GENERATIONS:
        if all(re.search(p, text) for p in row.has) and not any(
            re.search(p, text) for p in row.lacks
        ):
            return row
    reason = next((why for pattern, why in older if re.search(pattern, text)), "modeld is unknown")
    raise InputError(f"{str(root)!r}: {reason}; steerlab knows {', '.join(contract_ids())}")


def _version(root: Path) -> str:
    """Return the version that a checkout states, '' if it states none."""
    for name in ("common/version.h", "openpilot/common/version.h", "sunnypilot/common/version.h"):
        path = root / name
        if path.is_file() and (found := re.search(r'VERSION\s+"([^"]+)"', read_text(path))):
            return found[1]
    return ""


def _bundle(
    folder: Path, root: Path | None, contract_id: str, name: str, names: list[str]
) -> Target:
    """Return a bundle of sunnypilot's modeld_v2, which takes the inputs from the metadata."""
    if not name and len(names) != 1:
        known = f" (there: {', '.join(names)})" if names else ""
        raise InputError(f"{str(folder)!r} holds bundles: give the short name of one, name={known}")
    split = tuple(i for i in contract_ids() if contract(i).is_split)
    if contract_id and contract_id not in split:
        raise InputError(f"contract={contract_id!r}: modeld_v2 loads {', '.join(split)}")
    modeld = (
        next((root / p for p in _BUNDLE_FOLDERS if (root / p).is_dir()), None) if root else None
    )
    note = "modeld_v2 loads a bundle once it is chosen in sunnypilot's list of models"
    return Target(
        BUNDLE,
        folder,
        (contract_id,) if contract_id else split,
        root,
        modeld,
        name=name or names[0],
        version=_version(root) if root else "",
        notes=(note,),
    )


def _folder(folder: Path, tree: str | Path, contract_id: str) -> Target:
    """Return a folder with models alone."""
    if tree:
        root = _root_of(expand(tree).absolute())
        if root is None:
            raise InputError(f"tree={str(tree)!r} is no checkout of openpilot or sunnypilot")
        code = _checkout(root)
        if contract_id and contract_id not in code.accepts:
            raise InputError(
                f"contract={contract_id!r}, but tree={str(tree)!r} needs {code.accepts[0]}"
            )
        return replace(code, kind=FOLDER, models=folder)
    accepts = (contract_id,) if contract_id else _contracts_of(folder)
    if not accepts:
        raise InputError(
            f"{str(folder)!r} is no checkout of openpilot or sunnypilot, and no models in it say what "
            "loads them: give tree= (the checkout that does) or contract="
        )
    note = "no code shows what loads this folder: give tree= for a smoke test with its parser"
    return Target(FOLDER, folder, accepts, notes=(note,))


def _contracts_of(folder: Path) -> tuple[str, ...]:
    """Return the contracts that the policy's metadata in a folder fit."""
    path = folder / "driving_policy_metadata.pkl"
    if not path.is_file():
        return ()
    found = read_metadata(path)
    return tuple(fitting(found, "driving_policy"))
