"""
The image's entrypoint, run here: every line that a role writes from its start to its end is JSON.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deployment.helm import ROOT
from tests.parts import Process, wait_until

Start = Callable[..., Process]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def role(env, tmp_path) -> Iterator[Start]:
    started: list[Process] = []

    def start(*words: str, **extra: str) -> Process:
        place = tmp_path / f"tmp-{len(started)}"
        place.mkdir()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        mine = {"PATH": path, "PORT": str(free_port())}
        mine |= dict.fromkeys(("HOME", "TMPDIR", "XDG_RUNTIME_DIR"), str(place))
        command = ["sh", str(ROOT / "docker" / "entrypoint"), *words]
        started.append(Process(command, {**env, **mine, **extra}, place / "log"))
        started[-1].spawn()
        return started[-1]

    yield start
    for each in started:
        each.kill()


def lines(process: Process) -> list[dict]:
    """
    Return what *process* wrote, every line of which must be a JSON object of Ferry's form.
    """
    found = [json.loads(line) for line in process.text().splitlines()]
    assert all({"event", "level", "timestamp"} <= set(line) for line in found), process.text()
    return found


def _answers(port: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


# What each says when it has started, and the signal that ends it.
ROLES = {
    "api": ("Booting worker", signal.SIGTERM),
    "worker": ("worker.serves", signal.SIGINT),
    "beat": ("beat: Starting...", signal.SIGTERM),
    "flower": ("Visit me at", signal.SIGINT),
}


def test_every_line_from_the_start_to_the_end_is_json(role, tmp_path):
    running = {name: role(name, FLOWER_DB=str(tmp_path / "history")) for name in ROLES}
    for name, process in running.items():
        words = ROLES[name][0]
        wait_until(lambda p=process, w=words: p.logged(w) or p.ended(), timeout_s=90, what=name)
        assert not process.ended(), process.text()
    # Flower says where it will be before its loop runs, and a signal until then may be lost.
    wait_until(lambda: _answers(running["flower"].env["PORT"]), timeout_s=90, what="Flower's answer")
    # gunicorn's control socket would be one for all of a user's repositories.
    assert not [path for path in running["api"].log_path.parent.rglob("*") if path.is_socket()]
    for name, process in running.items():
        process.signal(ROLES[name][1])
    for process in running.values():
        process.wait(90)

    said = {name: [line["event"] for line in lines(process)] for name, process in running.items()}
    assert any(" exists; " in event for event in said["api"])  # what `ferry init` prints
    assert any("Shutting down" in event for event in said["api"])
    assert "worker.stopping" in said["worker"]
    assert [*tmp_path.glob("history*")], "Flower keeps what it has seen"


def test_a_refused_start_is_a_line_of_json(role):
    refused = {name: role(name, CFP_DATA_BRANHC="x") for name in ("init", "api", "worker", "flower")}
    for name, process in refused.items():
        assert process.wait(60) != 0, name
        assert any("did you mean CFP_DATA_BRANCH?" in line["event"] for line in lines(process)), name


def test_another_word_is_a_command_and_writes_as_it_likes(role):
    process = role("ferry", "--version")
    assert process.wait(60) == 0
    assert process.text().startswith("ferry 0.")


@pytest.mark.parametrize("word", ["wroker", "API", "./none", "--help"])
def test_another_word_is_told_the_roles(word, role):
    process = role(word)
    assert process.wait() == 127
    assert f"'{word}' is neither a role (api, worker, beat, flower, init) nor a command" in process.text()
