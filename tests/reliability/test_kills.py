"""A study that is killed anywhere and started again ends as one that was not."""

import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.counts import Tally
from tests.reliability.harness import ended, kill_at, none_left
from tests.reliability.studies import CASES
from tests.reliability.warm import Warm

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks warm processes")
#: At random times of each study: over 300 and over 50 in all.
KILLS, TERMINATIONS = int(os.environ.get("STEERLAB_KILLS", "14")), 3
SAMPLE = ("generate-pendulum-data", "train-tracking-ppo")


def killed_at(warm: Warm, name: str, moment: int) -> str:
    """Kill a study at a visible change and run it again; return what is wrong, or nothing."""
    folder = warm.work(f"{name}-cut")
    assert warm.run(CASES[name], folder, kill_at(moment)) == -signal.SIGKILL
    return warm.resumed(name, folder)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_kills(warm: Warm, name: str) -> None:
    moments = warm.whole(name).moments
    for moment in random.Random(0).sample(range(1, moments + 1), 2):
        assert not killed_at(warm, name, moment), f"killed at {moment} of {moments}"


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_killed_at_every_visible_change(warm: Warm, name: str, tally: Tally) -> None:
    moments = range(1, warm.whole(name).moments + 1)
    wrong = {moment: killed_at(warm, name, moment) for moment in moments}
    found = [f"{moment}: {text}" for moment, text in wrong.items() if text]
    kinds = Counter(text.partition(":")[0] for text in wrong.values())
    tally(
        "kills at a visible change", name,
        kills=len(moments), lost=kinds["lost"], differing=kinds["differing"],
    )  # fmt: skip
    assert not found, "\n".join(found)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_killed_at_random(warm: Warm, name: str, tally: Tally) -> None:
    at_random(warm, name, signal.SIGKILL, KILLS, tally)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_terminated_at_random(warm: Warm, name: str, tally: Tally) -> None:
    at_random(warm, name, signal.SIGTERM, TERMINATIONS, tally)


def at_random(warm: Warm, name: str, number: signal.Signals, count: int, tally: Tally) -> None:
    """Stop a study ``count`` times by a signal, and run it again each time."""
    rng = random.Random(f"{name} {number.name}")
    seconds = warm.whole(name, parallel=True).seconds
    wrong: list[str] = []
    stopped = 0
    for _ in range(3 * count):
        if stopped == count:
            break
        folder = warm.work(f"{name}-random")
        pid = warm.start(CASES[name], folder, parallel=True)
        time.sleep(rng.uniform(0, seconds))
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        code = ended(pid)
        if not none_left(pid):
            wrong.append("left: a process")
        if code == 0:  # it had ended before: the machine has less to do than during the whole run
            seconds *= 0.7
            continue
        stopped += 1
        wrong += unsaid(code, number, folder)
        if problem := warm.resumed(name, folder, parallel=True):
            wrong.append(problem)
    kinds = Counter(text.partition(":")[0] for text in wrong)
    tally(
        f"{number.name} at random", name, kills=stopped, lost=kinds["lost"],
        differing=kinds["differing"], left=kinds["left"], unsaid=kinds["unsaid"],
    )  # fmt: skip
    assert stopped == count
    assert not wrong, "\n".join(wrong)


def unsaid(code: int, number: signal.Signals, folder: Path) -> list[str]:
    """Return what is wrong with how a stopped study ended."""
    log = folder / "log.txt"
    text = log.read_text() if log.exists() else ""
    # Before the study listens to it, SIGTERM ends the process itself.
    if code not in (-number, 143):
        return [f"unsaid: exit {code}: {text[-1500:]}"]
    return ["unsaid: it says nothing"] if code == 143 and "stopped." not in text else []
