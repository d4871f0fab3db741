"""
That a data disk without room is seen before and while it is full, by everybody, and pages once.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ferry.app.dev.sentry_sink import SentrySink
from ferry.worker import paging
from ferry.worker.episodes import disk as disk_module
from ferry.worker.episodes.disk import ENTRY, Disk
from ferry.worker.episodes.resolving import Resolver
from ferry.worker.files import atomic_json
from ferry.worker.files.atomic_json import read_json, write_json
from ferry.worker.files.room import Room, room_at
from ferry.worker.watchdog import Watchdog
from tests.line import Clock, Deployment

MIB = 1 << 20
ROOM = Room(free_bytes=600 * MIB, total_bytes=1000 * MIB, files=1000)
FULL = Room(free_bytes=0, total_bytes=1000 * MIB, files=1000)


@pytest.mark.parametrize(
    ("room", "state"),
    [
        (ROOM, "ok"),
        (Room(free_bytes=49 * MIB, total_bytes=1000 * MIB), "low"),
        (Room(free_bytes=2000 * MIB, total_bytes=1_000_000 * MIB), "ok"),
        (Room(free_bytes=1000 * MIB, total_bytes=1_000_000 * MIB), "low"),
        (Room(free_bytes=MIB - 1, total_bytes=MIB), "full"),
        (Room(free_bytes=600 * MIB, total_bytes=1000 * MIB, files=15), "full"),
        (FULL, "full"),
    ],
)
def test_a_disk_is_called_low_before_it_is_full(room: Room, state: str):
    assert room.state == state


def test_the_room_is_that_of_users_without_privileges(tmp_path: Path):
    found = room_at(tmp_path)
    assert 0 <= found.free_bytes <= found.total_bytes


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> list[Room]:
    """
    What the disk has, to be changed.
    """
    rooms = [ROOM]
    monkeypatch.setattr(disk_module, "room_at", lambda path: rooms[0])
    return rooms


def test_a_full_disk_pages_once_from_whatever_process_looks_and_again_in_the_next_episode(
    deploy, room: list[Room], sentry: SentrySink, monkeypatch
):
    deployed: Deployment = deploy(SENTRY_DSN=sentry.dsn)
    resolved: list[str] = []
    monkeypatch.setattr(Resolver, "resolve", lambda _, event_ids: resolved.extend(event_ids))
    paging.configure(deployed.settings)
    clock = Clock()
    dogs = [
        Watchdog(deployed.settings, deployed.repository, deployed.ledger, clock=clock, monotonic=clock)
        for _ in range(2)
    ]

    def look() -> list[str]:
        with capture_logs() as logged:
            for dog in dogs:
                dog.check()
        paging.flush(5)
        return [line["event"] for line in logged if line["event"].startswith("disk.")]

    disk = Disk(deployed.settings, deployed.repository, deployed.ledger, clock=clock)
    assert look() == []
    assert disk.need(disk.room()) is None
    room[0], full_at = FULL, clock.now
    assert look() == ["disk.full"]
    assert look() == []
    clock.wind(90)
    need = disk.need(disk.room())
    assert need
    assert (need.since, need.reason) == (full_at, "local")
    assert str(deployed.repository.path) in need.hint
    (event,) = (each for each in sentry.events if each["tags"]["reason"] == "local")
    assert (event["level"], event["tags"]["reason"]) == ("fatal", "local")
    assert event["message"].endswith(": the data disk: full: 0 MiB of 1000 MiB free")
    assert "df -h" in "".join(event["contexts"]["push"]["commands"])

    room[0] = ROOM
    assert look() == ["disk.recovered"]
    assert resolved == [event["event_id"]]
    assert disk.need(disk.room()) is None
    room[0] = FULL
    assert look() == ["disk.full"]
    assert [each["tags"]["reason"] for each in sentry.events].count("local") == 2


def test_without_a_sentry_the_log_says_it_once(deployment: Deployment, room: list[Room]):
    disk = Disk(deployment.settings, deployment.repository, deployment.ledger)
    room[0] = FULL
    with capture_logs() as logged:
        for _ in range(3):
            disk.check()
    assert [line["event"] for line in logged] == ["disk.full"]
    assert deployment.ledger.read(ENTRY).needed_since is not None


def test_on_a_full_disk_a_small_file_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """
    Such as the time of the last sweep: else a full disk would look like a beat that is away.
    """
    path = tmp_path / "sweep.json"
    write_json(path, {"at": 1.0})

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic_json, "replace_file", refuse)
    write_json(path, {"at": 1234.5678})
    assert read_json(path) == {"at": 1234.5678}
    write_json(path, {"at": 2.0})
    assert read_json(path) == {"at": 2.0}
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"at": "x" * 300})
    assert read_json(path) == {"at": 2.0}
