"""
Where the API's figures are kept, that counting fails nothing, and that nothing of them stays.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ferry.app.metrics import tally
from ferry.app.metrics.tally import Tally, remove_left_over
from tests.parts import clean_environment

ROOT = Path(__file__).resolve().parents[2]
KEY = ("requests", "GET")

_COUNT = """
import sys
from pathlib import Path
from ferry.app.metrics.tally import Tally
counted = Tally(Path(sys.argv[1]))
for line in sys.stdin:
    counted.add(("requests", "GET"), (float(line),))
    print("counted", flush=True)
"""


class _Counting:
    """
    A process that counts.
    """

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _COUNT, str(directory)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def add(self, amount: float) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{amount}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "counted\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "ferry-metrics-1-2-3"


@pytest.fixture
def others(directory: Path) -> Iterator[list[_Counting]]:
    started = [_Counting(directory) for _ in range(2)]
    yield started
    for each in started:
        each.kill()


def test_the_sums_are_those_of_all_processes_and_outlive_them(directory: Path, others: list[_Counting]):
    """
    A process takes over the file of one that has ended: no sum falls, and the files do not become more.
    """
    mine = Tally(directory)
    mine.add(KEY, (1,))
    for number in range(3):
        others[0].add(10)
        others[1].add(100)
        assert mine.totals() == {KEY: [1 + 110.0 * (number + 1)]}
        others[0].kill()
        assert mine.totals() == {KEY: [1 + 110.0 * (number + 1)]}
        others[0] = _Counting(directory)
    assert len(list(directory.glob("*.sums"))) == 3


def test_a_directory_stays_as_long_as_any_process_holds_it(directory: Path, others: list[_Counting]):
    """
    Whatever process ids say: they mean nothing in another pid namespace.
    """
    for each in others:
        each.add(1)
    others[0].kill()
    remove_left_over(iter([directory]))
    assert Tally(directory).totals() == {KEY: [2.0]}
    others[1].kill()
    remove_left_over(iter([directory]))
    assert not directory.exists()


def test_figures_of_processes_that_have_ended_are_removed_at_the_next_start(tmp_path: Path):
    left_over = tmp_path / f"ferry-metrics-{os.getuid()}-1-{os.getpid()}-123"
    left_over.mkdir()
    (left_over / "1.sums").touch()

    script = "from ferry.app.metrics import metering; metering.prepare(); metering.enqueue_failed('origin')"
    env = {**clean_environment(), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, check=True)

    (left,) = tmp_path.iterdir()
    assert left != left_over


@pytest.mark.parametrize("gone", ["the file", "the directory", "all above it"])
def test_where_the_directory_is_gone_counting_goes_on_and_heals(tmp_path: Path, gone: str, monkeypatch):
    monkeypatch.setattr(tally, "_TRY_AGAIN_S", 0.0)
    place = tmp_path / "place"
    place.mkdir()
    directory = place / "ferry-metrics"
    mine = Tally(directory)
    mine.add(KEY, (1,))
    if gone == "the file":
        (directory / "1.sums").unlink()
    else:
        shutil.rmtree(directory if gone == "the directory" else place)

    with capture_logs() as logs:
        mine.add(KEY, (1,))
        mine.add(("other",), (1, 2))
    assert mine.totals() == {KEY: [2.0], ("other",): [1.0, 2.0]}
    assert [entry["event"] for entry in logs] == ["metrics.lost"] * (gone == "all above it")

    place.mkdir(exist_ok=True)
    mine.add(KEY, (1,))
    assert Tally(directory).totals() == {KEY: [3.0], ("other",): [1.0, 2.0]}


@pytest.mark.parametrize("call", ["open", "pwrite", "fstat", "ftruncate", "pread", "close"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EIO, errno.ESTALE])
def test_what_cannot_be_written_is_told_once_and_fails_nothing(directory, monkeypatch, call, number):
    monkeypatch.setattr(tally, "_TRY_AGAIN_S", 0.0)
    mine = Tally(directory)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr(os, call, refuse)
        for _ in range(5):
            mine.add(KEY, (1,))
    assert [entry["event"] for entry in logs] == ["metrics.lost"] * (call != "close")
    assert mine.totals() == {KEY: [5.0]}
    mine.add(KEY, (1,))
    assert Tally(directory).totals() == {KEY: [6.0]}


def test_a_file_system_that_takes_nothing_more_ends_no_process(directory: Path):
    """
    Neither by an error nor by a signal, wherever in a row it is full.
    """
    script = (
        "import resource, sys\nfrom pathlib import Path\nfrom ferry.app.metrics.tally import Tally\n"
        "mine = Tally(Path(sys.argv[1]))\n"
        "for limit in range(0, 400, 7):\n"
        f"    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, {resource.RLIM_INFINITY}))\n"
        "    mine.add(('requests', str(limit)), (1,))\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({resource.RLIM_INFINITY},) * 2)\n"
        "for limit in range(0, 400, 7):\n"
        "    mine.add(('requests', str(limit)), (1,))\n"
    )
    # The limit is for every file: not for what pytest captures.
    subprocess.run(
        [sys.executable, "-c", script, str(directory)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    assert Tally(directory).totals() == {("requests", str(limit)): [2.0] for limit in range(0, 400, 7)}


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """
    A small file system of its own.
    """
    place = tmp_path / "full"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_directory_for_temporary_files_ends_no_process_and_heals(full: Path):
    """
    A mapped file would be SIGBUS there.
    """
    mine = Tally(full / "ferry-metrics")
    mine.add(KEY, (1,))
    with pytest.raises(OSError, match="No space"):
        (full / "filler").write_bytes(b"x" * 65536)
    rows = [("endpoint", str(number)) for number in range(100)]
    with capture_logs() as logs:
        for row in rows:
            mine.add(row, (1,) * 17)
    assert [entry["event"] for entry in logs] == ["metrics.lost"]
    assert len(mine.totals()) == 101

    (full / "filler").unlink()
    for row in rows:
        mine.add(row, (1,) * 17)
    assert Tally(full / "ferry-metrics").totals() == {KEY: [1.0]} | {row: [2.0] * 17 for row in rows}


@pytest.mark.parametrize(
    "content", [b"\0" * 40, b"\x08\0\0\0\x01\0\0\0not json12345678", b"\xff" * 100, b"x"]
)
def test_a_damaged_file_is_no_sum_and_is_written_over(directory: Path, content: bytes):
    directory.mkdir(mode=0o700)
    (directory / "1.sums").write_bytes(content)
    mine = Tally(directory)
    mine.add(KEY, (1,))
    assert mine.totals() == Tally(directory).totals() == {KEY: [1.0]}


def test_a_forked_process_counts_for_itself(directory: Path):
    mine = Tally(directory)
    mine.add(KEY, (1,))
    child = os.fork()
    if child == 0:  # pragma: no cover
        mine.add(KEY, (10,))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    mine.add(KEY, (1,))
    assert mine.totals() == {KEY: [12.0]}


def test_a_directory_that_others_may_write_to_is_not_used(directory: Path, tmp_path: Path):
    directory.symlink_to(tmp_path)
    mine = Tally(directory)
    with capture_logs() as logs:
        mine.add(KEY, (1,))
    directory.unlink()
    directory.mkdir()
    directory.chmod(0o777)
    other = Tally(directory)
    other.add(KEY, (1,))
    assert mine.totals() == other.totals() == {KEY: [1.0]}
    assert [entry["event"] for entry in logs] == ["metrics.lost"]
    assert list(directory.iterdir()) == []
