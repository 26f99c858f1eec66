"""The GPU, the build of torch that fits it, and the compiler of tinygrad."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from steerlab.doctor.base import NOTE, OK, WRONG, Finding, answer_of
from steerlab.openpilot.tinygrad import missing_compiler

_QUERY = ["--query-gpu=name,compute_cap,driver_version,memory.total", "--format=csv,noheader"]
#: Oldest driver with which the builds for CUDA 12 run (minor-version compatibility).
_OLDEST_DRIVER = 525
#: As steerlab asks for torch in pyproject.toml.
_TORCH = '"torch>=2.8,<2.14"'


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver tells of it."""

    name: str
    capability: float | None  # 12.0 for sm_120
    driver: int  # its first number
    memory: str


def gpus() -> list[Gpu]:
    """Return the GPUs that nvidia-smi finds; it needs no torch."""
    program = shutil.which("nvidia-smi")
    found = []
    for line in (answer_of([program, *_QUERY]) or "").splitlines() if program else ():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4:
            number = parts[2].partition(".")[0]
            found.append(
                Gpu(
                    parts[0],
                    float(parts[1]) if parts[1].replace(".", "", 1).isdigit() else None,
                    int(number) if number.isdigit() else 0,
                    parts[3],
                )
            )
    return found


def fitting_build(gpu: Gpu) -> str:
    """Return the index of PyTorch that has a build for a GPU.

    Those for CUDA 12.8 begin with Turing (7.5) and know Blackwell (10.0 and 12.0: the RTX 50 series);
    older GPUs need those for CUDA 12.6 (pytorch/pytorch issue 172352).
    """
    return "cu126" if gpu.capability is not None and gpu.capability < 7.5 else "cu128"


def install_command(build: str) -> str:
    """Return the command that installs a build of torch."""
    again = "pip install --force-reinstall" if build != "cpu" else "pip install"
    return f"{again} {_TORCH} --index-url https://download.pytorch.org/whl/{build}"


def torch_build(
    found: Sequence[Gpu], cuda: str | None, architectures: Sequence[str], usable: bool
) -> Finding:
    """Check torch against the GPUs.

    Args:
        found: The GPUs.
        cuda: CUDA version of torch's build, None for one for the CPU.
        architectures: ``torch.cuda.get_arch_list()``.
        usable: ``torch.cuda.is_available()``.
    """
    kind = f"torch for CUDA {cuda}" if cuda else "torch for the CPU"
    if not found:
        remedy = "" if not cuda else f"for a smaller install: {install_command('cpu')}"
        return Finding("GPU", NOTE, f"no NVIDIA GPU; {kind}", remedy, "gpu")
    gpu = found[0]
    command = install_command(fitting_build(gpu))
    described = f"{gpu.name}, compute capability {gpu.capability}, driver {gpu.driver}"
    if gpu.driver and gpu.driver < _OLDEST_DRIVER:
        remedy = f"install NVIDIA's driver {_OLDEST_DRIVER} or newer, then: {command}"
        return Finding("GPU", WRONG, f"{described}: the driver is too old; {kind}", remedy, "gpu")
    if not cuda:
        return Finding("GPU", WRONG, f"{described}, but {kind}", command, "gpu")
    if gpu.capability is not None and not _runs_on(gpu.capability, architectures):
        known = ", ".join(architectures)
        return Finding("GPU", WRONG, f"{described}; {kind} knows {known}", command, "gpu")
    if not usable:
        remedy = "restart after the driver's installation; look at what nvidia-smi prints"
        return Finding("GPU", WRONG, f"{described}; {kind} finds no device", remedy, "gpu")
    return Finding("GPU", OK, f"{described}, {gpu.memory}; {kind}", topic="gpu")


def _runs_on(capability: float, architectures: Sequence[str]) -> bool:
    """Tell whether a build has code for a GPU: of its own generation, or PTX of an older one."""
    number = round(10 * capability)
    for name in architectures:
        kind, _, digits = name.partition("_")
        built = int(digits.rstrip("af")) if digits.rstrip("af").isdigit() else 0
        if kind == "sm" and built // 10 == number // 10 and built <= number:
            return True
        if kind == "compute" and built <= number:
            return True
    return False


def compiler() -> Finding:
    """Check for the compiler with which tinygrad makes openpilot's pickles."""
    if missing_compiler():
        remedy = (
            "apt install clang, brew install llvm, or winget install LLVM.LLVM; without it the "
            "*_tinygrad.pkl files are left out"
        )
        return Finding("clang", NOTE, "not on PATH; tinygrad compiles with it", remedy, "tinygrad")
    return Finding("clang", OK, shutil.which("clang") or "", topic="tinygrad")
