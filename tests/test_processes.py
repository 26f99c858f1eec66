"""Workers end with their parent; studies end at a signal with its exit code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steerlab.errors import InputError
from steerlab.processes import in_order, worker_pool

PARENT = """
import os, sys, time
from steerlab.processes import worker_pool

def busy(folder):
    open(os.path.join(folder, str(os.getpid())), "w").close()
    sum(range(10**12))  # in C, so no signal handler of Python runs

if __name__ == "__main__":
    with worker_pool(2) as pool:
        list(pool.map(busy, [sys.argv[1]] * 2))
"""

SLOW = """
import os, time
if os.getppid() == int(os.environ["PARENT"]):  # in a worker
    open(os.path.join(os.environ["NOTED"], str(os.getpid())), "w").close()
    time.sleep(60)  # an import that takes long

def begin():
    pass
"""

IMPATIENT = """
import os, sys, time
from pathlib import Path
from steerlab.processes import worker_pool

if __name__ == "__main__":
    os.environ["PARENT"] = str(os.getpid())
    from slow import begin
    with worker_pool(1, begin) as pool:
        list(pool.map(os.path.exists, ["."]))
"""

STUDY = """
import time
from dataclasses import dataclass
from pathlib import Path
from steerlab.study import study

@dataclass(frozen=True)
class Config:
    pass

def run(config, output):
    (output / "began").touch()
    time.sleep(60)

main = study(Config, run, resumes=True)
if __name__ == "__main__":
    main()
"""


def wait_for(done: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not done():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path: Path, number: int) -> None:
    script, noted = tmp_path / "parent.py", tmp_path / "workers"
    script.write_text(PARENT)
    noted.mkdir()
    with subprocess.Popen([sys.executable, str(script), str(noted)]) as parent:
        wait_for(lambda: len(list(noted.iterdir())) == 2)
        parent.send_signal(number)
        parent.wait(10)
    workers = [int(p.name) for p in noted.iterdir()]
    wait_for(lambda: not any(map(alive, workers)), 5)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_that_still_import_end_with_their_parent(tmp_path: Path) -> None:
    """What a worker needs may take seconds to import; a kill in that time must leave nobody behind."""
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "impatient.py").write_text(IMPATIENT)
    noted = tmp_path / "workers"
    noted.mkdir()
    place = os.environ | {"NOTED": str(noted)}
    with subprocess.Popen([sys.executable, str(tmp_path / "impatient.py")], env=place) as parent:
        wait_for(lambda: list(noted.iterdir()))
        parent.kill()
    (worker,) = (int(path.name) for path in noted.iterdir())
    wait_for(lambda: not alive(worker), 5)


def leave(code: int) -> None:
    os._exit(code)


def test_a_worker_that_is_gone_is_named() -> None:
    with pytest.raises(InputError, match="ended on its own"), worker_pool(1) as pool:
        list(pool.map(leave, [3]))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_study_stops_at_a_signal(tmp_path: Path, number: int, code: int) -> None:
    script = tmp_path / "my_study.py"
    script.write_text(STUDY)
    command = [sys.executable, str(script), f"output={tmp_path / 'out'}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for((tmp_path / "out/began").exists)
        process.send_signal(number)
        _, text = process.communicate(timeout=20)
    assert process.returncode == code
    assert "my_study" in text.replace("-", "_")
    assert f"output={tmp_path / 'out'}" in text.partition("To go on from there: ")[2]
    assert "Traceback" not in text


def test_results_come_in_the_order_of_their_items() -> None:
    items = [3, 1, 2]
    alone, others = (list(in_order(_told, items, processes)) for processes in (1, 2))
    assert [item for item, _ in alone] == [item for item, _ in others] == items
    assert {pid for _, pid in alone} == {os.getpid()}
    assert os.getpid() not in {pid for _, pid in others}


def _told(item: int) -> tuple[int, int]:
    time.sleep(0.1 * item)  # the first to be asked is the last to answer
    return item, os.getpid()
