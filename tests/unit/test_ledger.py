"""
That what is known of a remote survives, and that what does not survive costs no commit.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ferry.worker.errors import LedgerError
from ferry.worker.files.moments import timestamp
from ferry.worker.ledger.entry import Entry, Failure, Running, from_json
from ferry.worker.ledger.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
FULL = Entry(
    attempt=3,
    chain="task-7",
    next_attempt_at=1_800_000_004.5,
    backoff_s=4.5,
    last_attempt_at=1_800_000_000.0,
    last_push_at=1_799_999_000.25,
    last_failure=Failure(reason="network", message="no route", hint="wait", at=1_800_000_000.1, attempt=3),
    failing_since=1_799_999_500.0,
    paged=("network", "auth"),
    running=Running(host="here", group=4711, born="123456"),
    gave_up=True,
    outcomes={"network": 3, "pushed": 12},
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def ledger(directory: Path) -> Ledger:
    return Ledger(directory)


@pytest.fixture
def stored(ledger: Ledger, directory: Path) -> Path:
    """
    The file that FULL was written to as the ledger of origin.
    """
    _write(ledger, FULL)
    return directory / "origin.json"


def _write(ledger: Ledger, entry: Entry) -> None:
    with ledger.claim("origin") as claim:
        assert claim
        claim.write(**{name: getattr(entry, name) for name in get_type_hints(Entry)})


# --- What is written is read ---


def _values(hint: Any) -> st.SearchStrategy[Any]:
    if hint is float:
        return st.floats(min_value=0, max_value=4e9)
    if isinstance(hint, UnionType):
        return st.one_of(*map(_values, get_args(hint)))
    if is_dataclass(hint):
        return st.builds(hint, **{name: _values(inner) for name, inner in get_type_hints(hint).items()})
    return st.from_type(hint)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entry=_values(Entry))
def test_every_field_is_read_as_it_was_written(ledger: Ledger, directory: Path, entry: Entry):
    """
    By another process too, which is what a new ``Ledger`` is.
    """
    _write(ledger, entry)
    assert Ledger(directory).read("origin") == ledger.read("origin") == entry


def test_what_another_process_has_written_since_is_read(ledger: Ledger, directory: Path):
    _write(ledger, FULL)
    _write(Ledger(directory), Entry(attempt=7))
    assert ledger.read("origin") == Entry(attempt=7)


def test_nothing_is_known_of_a_remote_that_nothing_was_written_of(ledger: Ledger, stored: Path):
    assert ledger.read("backup") == Entry()


def test_a_change_leaves_the_other_fields_alone(ledger: Ledger, stored: Path):
    with ledger.claim("origin") as claim:
        assert claim
        assert claim.entry == FULL
        assert claim.write(attempt=4) == claim.entry == ledger.read("origin") == replace(FULL, attempt=4)


def test_outcomes_are_counted_by_name(ledger: Ledger):
    with ledger.claim("origin") as claim:
        assert claim
        for outcome in ("pushed", "network", "pushed"):
            claim.write(outcomes=claim.count(outcome))

    assert ledger.read("origin").outcomes == {"pushed": 2, "network": 1}


# --- What is damaged is empty ---


def test_a_file_cut_short_anywhere_reads_as_empty(ledger: Ledger, stored: Path, monkeypatch):
    """
    Without a pause or a page it is not flushed to disk, so a power loss may leave any beginning of it.
    """
    monkeypatch.setattr("ferry.worker.ledger.ledger._LOOKS", 1)
    whole = stored.read_bytes().rstrip()
    for length in range(len(whole)):
        stored.write_bytes(whole[:length])
        assert ledger.read("origin") == Entry(), whole[:length]


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 300,
        b"\xff\xfe{}",
        b"null",
        b"7",
        b'"idle"',
        b"[]",
        b'{"last_failure": {"why": "?"}}',
        b'{"last_failure": {"reason": "network"}}',
        b'{"last_failure": "network"}',
        b'{"running": []}',
        b'{"running": {"pid": 1}}',
        b'{"paged": 5}',
    ],
)
def test_what_another_version_or_a_bad_disk_wrote_reads_as_empty(ledger, stored: Path, content: bytes):
    stored.write_bytes(content)
    assert ledger.read("origin") == Entry()


@pytest.mark.parametrize(
    "content",
    [
        '{"attempt": "3"}',
        '{"outcomes": null}',
        '{"outcomes": {"pushed": "often"}}',
        '{"next_attempt_at": "soon"}',
        '{"paged": "auth"}',
        '{"last_failure": {"reason": "auth", "message": "", "hint": "", "at": "now", "attempt": 1}}',
        '{"running": {"host": "here", "group": "4711", "born": "1"}}',
    ],
)
def test_a_value_of_another_type_reads_as_empty(ledger: Ledger, stored: Path, content: str):
    """
    It would otherwise end each attempt in a TypeError, for ever.
    """
    stored.write_text(content)
    assert ledger.read("origin") == Entry()


def test_a_field_of_a_later_version_is_passed_over(ledger: Ledger, stored: Path):
    stored.write_text(json.dumps({**json.loads(stored.read_text()), "mood": {"at": 1}}))
    assert ledger.read("origin") == FULL


@pytest.mark.parametrize("moment", ["NaN", "Infinity", "1e400", "-1e300", str(2**70)])
@pytest.mark.parametrize("name", ["next_attempt_at", "last_push_at", "paused_at", "backoff_s"])
def test_what_is_no_moment_is_damage_and_no_error_of_who_reads_it(name: str, moment: str):
    assert from_json(Entry, f'{{"{name}": {moment}}}'.encode()) is None
    assert from_json(Entry, f'{{"{name}": 1764187200.5}}'.encode())


@pytest.mark.parametrize(("moment", "is_read"), [(-62135596800.0, True), (-62135596801.0, False)])
def test_a_moment_before_the_first_year_is_damage(moment: float, is_read: bool):
    entry = from_json(Entry, json.dumps({"last_push_at": moment}).encode())
    assert (entry is not None) is is_read
    assert timestamp(entry and entry.last_push_at) == ("0001-01-01T00:00:00.000Z" if is_read else None)


def test_damage_is_told_once_and_its_absence_never(ledger: Ledger, stored: Path):
    with capture_logs() as logged:
        ledger.read("origin")
        ledger.read("backup")
        stored.write_bytes(b"{")
        for _ in range(3):
            assert ledger.read("origin") == Entry()
    assert logged == [{"event": "ledger.damaged", "log_level": "warning", "path": str(stored)}]


def test_what_is_too_deep_to_read_is_damage():
    assert from_json(Entry, b"[" * 100_000) is None


def test_a_damaged_file_is_mended_by_the_next_write(ledger: Ledger, stored: Path):
    stored.write_bytes(b"{")
    _write(ledger, FULL)
    assert ledger.read("origin") == FULL


# --- Replaced whole ---


def test_a_reader_sees_the_old_entry_or_the_new_one(ledger: Ledger):
    """
    However often it looks while it is written, and however long the entries are.
    """
    failure = FULL.last_failure
    assert failure
    entries = [
        replace(FULL, attempt=n, last_failure=replace(failure, message=str(n) * 20_000)) for n in range(2)
    ]
    _write(ledger, entries[0])

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [_write(ledger, entries[n % 2]) for n in range(60)])
        seen = []
        while not writing.done():
            seen.append(ledger.read("origin"))
        writing.result()

    assert all(entry in entries for entry in seen)


def test_nothing_is_left_beside_the_entry(ledger: Ledger, directory: Path):
    _write(ledger, FULL)
    assert {path.name for path in directory.iterdir()} == {"origin.json", "origin.lock"}


# --- A full disk ---


@contextmanager
def _no_room() -> Iterator[None]:
    """
    Let every write of this process to a file fail, as on a full disk.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_is_logged_and_keeps_nothing_from_being_pushed(ledger: Ledger, stored: Path):
    """
    Commits must be able to leave a full disk. This process remembers; the others see the old entry.
    """
    with capture_logs() as logged, ledger.claim("origin") as claim:
        assert claim
        with _no_room():
            written = claim.write(attempt=4)

        assert written == claim.entry == replace(FULL, attempt=4)
        assert ledger.read("origin") == written
        assert Ledger(stored.parent).read("origin") == FULL
        assert sorted(path.name for path in stored.parent.iterdir()) == ["origin.json", "origin.lock"]

        claim.write(gave_up=False)  # there is room again
    assert ledger.read("origin") == replace(FULL, attempt=4, gave_up=False)

    (line,) = logged
    assert (line["event"], line["log_level"], line["remote"]) == ("ledger.write_failed", "warning", "origin")
    assert os.strerror(errno.EFBIG) in line["error"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_has_room_for_the_next_entry_in_the_last_one(ledger, stored: Path, monkeypatch, number):
    """
    So that every process knows of the one retry and of the one page.
    """

    def refuse(path: Path, content: bytes, *, durably: bool) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("ferry.worker.files.atomic_json.replace_file", refuse)
    failure = replace(FULL.last_failure, message="no space left on device " * 40)
    with ledger.claim("origin") as claim:
        assert claim
        claim.write(last_failure=failure, chain="task-8", paged=("local",))
    assert Ledger(stored.parent).read("origin") == replace(
        FULL, last_failure=failure, chain="task-8", paged=("local",)
    )


def test_what_the_remote_said_finds_no_room_on_a_full_disk_and_keeps_nothing_else_out(
    ledger, stored: Path, monkeypatch
):
    def refuse(path: Path, content: bytes, *, durably: bool) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ferry.worker.files.atomic_json.replace_file", refuse)
    with ledger.claim("origin") as claim:
        assert claim
        claim.write(last_failure=replace(FULL.last_failure, said="no, " * 2000), chain="task-8")
    found = Ledger(stored.parent).read("origin")
    assert (found.chain, found.last_failure) == ("task-8", replace(FULL.last_failure, said=""))


def test_an_entry_that_is_too_long_for_a_full_disk_is_known_to_this_process(ledger, stored, monkeypatch):
    def refuse(path: Path, content: bytes, *, durably: bool) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full, ledger.claim("origin") as claim:
        assert claim
        full.setattr("ferry.worker.files.atomic_json.replace_file", refuse)
        claim.write(chain="x" * 20_000)
    assert ledger.read("origin").chain == "x" * 20_000
    assert Ledger(stored.parent).read("origin") == FULL

    _write(Ledger(stored.parent), replace(FULL, chain="newer"))
    assert ledger.read("origin").chain == "newer"


def test_there_is_a_file_to_write_over_from_the_first(ledger: Ledger, directory: Path):
    ledger.make("origin")
    assert (directory / "origin.json").stat().st_size >= 4096
    assert ledger.read("origin") == Entry()


# --- What cannot be read is not empty ---


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.EACCES])
def test_what_cannot_be_read_is_neither_empty_nor_written_over(ledger, stored: Path, monkeypatch, number):
    """
    One such moment would lift an operator's pause, and forget the pages and the retry.
    """

    def refuse(path: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", refuse)
        with pytest.raises(LedgerError, match=os.strerror(number)):
            ledger.read("origin")
        with pytest.raises(LedgerError), ledger.claim("origin"):
            pass
    assert ledger.read("origin") == FULL
    assert not ledger.is_claimed("origin")


@pytest.mark.parametrize(
    ("before", "after", "is_flushed"),
    [
        ({"paused_at": None, "paged": ()}, {"paused_at": 1.0}, True),
        ({"paused_at": 1.0, "paged": ()}, {"attempt": 2}, True),
        ({"paused_at": 1.0, "paged": ()}, {"paused_at": None}, True),
        ({"paused_at": None, "paged": ()}, {"paged": ("auth",)}, True),
        ({"paused_at": None, "paged": ("auth",)}, {"paged": ()}, True),
        ({"paused_at": None, "paged": ()}, {"attempt": 2}, False),
    ],
)
def test_a_pause_and_a_page_survive_a_power_cut(
    ledger: Ledger, directory: Path, monkeypatch, before, after, is_flushed
):
    """
    The new file is flushed before it takes the place of the old one, and its directory after that.
    """
    done = []
    _write(ledger, replace(FULL, **before))
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), rename(*paths)))

    with ledger.claim("origin") as claim:
        assert claim
        claim.write(**after)

    if not is_flushed:
        assert done == ["replace"]
        return
    file, replaced, parent = done
    assert (Path(file).name.startswith("origin.json."), replaced) == (True, "replace")
    assert Path(parent) == directory.resolve()


# --- One claim ---


def test_a_remote_is_claimed_once(ledger: Ledger):
    with ledger.claim("origin") as first, ledger.claim("origin") as second:
        assert first
        assert second is None
        assert ledger.is_claimed("origin")

    assert not ledger.is_claimed("origin")


def test_each_remote_has_a_claim_of_its_own(ledger: Ledger):
    with ledger.claim("origin"), ledger.claim("backup") as backup:
        assert backup


def test_a_claim_begins_with_what_the_last_holder_wrote(ledger: Ledger, stored: Path):
    with ledger.claim("origin") as claim:
        assert claim
        assert claim.entry == FULL


# --- Waiting ---


@pytest.mark.parametrize(
    ("now", "waits"),
    [(999, False), (1000, True), (1009.9, True), (1010, False), (5000, False)],
    ids=["clock set back", "at once", "just before", "due", "overdue"],
)
def test_a_retry_waits_from_the_attempt_until_it_is_due(now: float, waits: bool):
    """
    Not so where the clock was set back: the retry might be days away.
    """
    assert Entry(last_attempt_at=1000, next_attempt_at=1010).waits(now) is waits


def test_where_nothing_is_scheduled_nothing_waits():
    assert not Entry(last_attempt_at=1000).waits(1000)
    assert not Entry().waits(0)


def test_a_nudge_of_a_remote_whose_ledger_cannot_be_read_asks_for_no_task(directory: Path):
    """
    The task would meet the same error, and ask for the next one.
    """
    nudged: list[str] = []
    ledger = Ledger(directory, nudged=nudged.append)
    ledger.nudge("origin")
    (directory / "origin.json").mkdir()  # EISDIR, for root too

    with pytest.raises(LedgerError), ledger.claim("origin"):
        pass
    assert nudged == []

    (directory / "origin.json").rmdir()
    with ledger.claim("origin"):
        pass
    assert nudged == ["origin"]


def test_a_lock_file_that_cannot_be_made_keeps_no_push_waiting(directory: Path):
    """
    On a disk that is full commits must be able to leave.
    """
    (directory / "origin.next").mkdir()
    assert not Ledger(directory).is_awaited("origin")
