"""
API processes that commit to one repository take turns.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_HAMMER = """
import sys, threading, time
from pathlib import Path
from ferry.app.store.group_commit import GroupCommit
from ferry.worker.files import locks
from ferry.worker.files.locks import FileLock
writers = GroupCommit(FileLock(Path(sys.argv[1])), head=lambda: "0", land=lambda new, old: time.sleep(0.0005))
turns, until = [], time.monotonic() + 2
def write():
    while time.monotonic() < until:
        with writers.turn() as group:
            time.sleep(0.0005)
            group.tip += "x"
        turns.append(1)
print("ready", flush=True)
threads = [threading.Thread(target=write) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(turns), flush=True)
"""


def test_a_busy_process_does_not_keep_another_from_writing(tmp_path: Path):
    command = [sys.executable, "-c", _HAMMER, str(tmp_path / "lock")]
    hammering = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]

    turns = [int(process.communicate(timeout=60)[0].split()[-1]) for process in hammering]

    assert min(turns) > 0.15 * max(turns)
