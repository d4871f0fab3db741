"""
A file of a hundred thousand lines into an empty sheet, in one commit, and out again.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.ground import Ground, record
from benchmarks.table import Figure
from ferry.app.exchange.columns import Columns
from ferry.app.exchange.forms import FORMS, pieces
from ferry.app.finding.fields import Fields

_LINES = 100_000
_MOST_S = 60.0
_MOST_MIB = 512.0
_TIMEOUT_S = 600


def in_and_out(ground: Ground) -> list[Figure]:
    """
    ``ferry import`` and ``ferry export``, each a process of its own.
    """
    site = ground.site("import", records=1)
    file = ground.directory / "people.csv"
    snapshot = site.store.snapshot()
    sheet = snapshot.sheet("people")
    columns = Columns(sheet, Fields.of(sheet, {}))
    with file.open("wb") as opened:
        opened.writelines(
            pieces(FORMS["csv"].write(lambda: (record(number) for number in range(1, _LINES + 1)), columns))
        )
    taken_s, most_mib = _ferry(site.env, "import", "people", str(file))
    made = site.pipeline.repository.log(site.pipeline.repository.head(), without=snapshot.commit)
    assert len(made) == 1, "it is one commit"
    export_s, _ = _ferry(site.env, "export", "people", str(ground.directory / "out.csv"))
    return [
        Figure(
            name=f"import of {_LINES:,} lines in one commit", unit="s", value=taken_s,
            target=f"< {_MOST_S:g} s", met=taken_s < _MOST_S,
        ),
        Figure(
            name="its memory at most", unit="MiB", value=most_mib,
            target=f"< {_MOST_MIB:g} MiB", met=most_mib < _MOST_MIB,
        ),
        Figure(
            name=f"export of {_LINES:,} records", unit="s", value=export_s,
            target=f"< {_MOST_S:g} s", met=export_s < _MOST_S,
        ),
    ]  # fmt: skip


def _ferry(env: dict[str, str], *arguments: str) -> tuple[float, float]:
    """
    Run the command; returns its seconds, and the most memory that it had, in MiB.
    """
    command = [str(Path(sys.executable).with_name("ferry")), *arguments]
    begun, most = time.monotonic(), 0
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    try:
        known = psutil.Process(process.pid)
        while process.poll() is None:
            assert time.monotonic() - begun < _TIMEOUT_S, f"{command} takes too long"
            most = max(most, _memory(known))
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, command
    return time.monotonic() - begun, most / (1 << 20)


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
