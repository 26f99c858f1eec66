"""Launch a CARLA server and wait until it answers; Ctrl-C stops it.

The folder of the release is carla_root=, or the environment variable CARLA_ROOT. With keep_running=true
the command returns as soon as the server answers, and the server keeps running.

Example:
  steerlab launch-carla carla_root=~/CARLA_0.9.16 port=2000 quality=Low
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from steerlab.envs.carla_driver.server.launch import launched
from steerlab.errors import InputError
from steerlab.options import option
from steerlab.study import study


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    carla_root: str | None = option(None, "folder of a CARLA release; CARLA_ROOT by default")
    port: int = option(2000, "port of the server, which also uses the next port")
    offscreen: bool = option(True, "render without a window")
    quality: str = option("Epic", "quality: Epic or Low")
    ready_timeout: float = option(120.0, "time limit until the server answers, s")
    keep_running: bool = option(False, "return and leave the server running")


def run(config: Config, output: Path) -> dict[str, Any]:
    """Launch the server; its output goes to ``server.log`` in ``output``."""
    console = Console()
    try:
        with launched(
            config.carla_root, config.port, config.offscreen, config.quality, config.ready_timeout,
            config.keep_running, log=output / "server.log",
        ) as server:  # fmt: skip
            console.print(
                f"CARLA {server.version} is ready at {server.host}:{server.port}"
                + ("" if config.keep_running else "; Ctrl-C stops it"),
                highlight=False,
            )
            if server.process and not config.keep_running:
                status = _wait(server.process)
                raise InputError(f"the CARLA server ended with status {status}; see {server.log}")
    except KeyboardInterrupt:
        console.print("The server is stopped.")
    return {"port": config.port}


def _wait(process: "subprocess.Popen[bytes]") -> int:
    return process.wait()


main = study(Config, run)

if __name__ == "__main__":
    main()
