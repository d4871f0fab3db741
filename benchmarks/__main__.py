"""
``make bench``: every figure of the performance page, each beside a floor of the same run.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import structlog

from benchmarks import history_length, idle, imports, many, pushes, reads, records, writes
from benchmarks.ground import Ground, ground, place
from benchmarks.table import Figure, rendered

_PUSHES = 300
_PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "performance.md"
_BEGIN, _END = "<!-- the last run -->", "<!-- end of the last run -->"

MEASUREMENTS: dict[str, Callable[[Ground], list[Figure]]] = {
    "latency": pushes.latency,
    "ssh": pushes.over_ssh,
    "afar": pushes.from_afar,
    "burst": pushes.burst,
    "transact": writes.by_transact,
    "http": writes.over_http,
    "reads": reads.one_and_many,
    "finding": reads.finding,
    "backlog": pushes.backlog,
    "many": many.repositories,
    "idle": partial(idle.at_rest, pushes=_PUSHES),
    "growth": records.growth,
    "import": imports.in_and_out,
    "history": history_length.answers,
    "bytes": pushes.sizes,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(MEASUREMENTS)))
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--page", is_flag=True, help="Put the table into docs/reference/performance.md, too.")
@click.option("--pushes", "many_pushes", default=_PUSHES, help="How many pushes the memory is to survive.")
def main(names: tuple[str, ...], *, as_json: bool, page: bool, many_pushes: int) -> None:
    """
    Measure NAMES; without any, everything.
    """
    # So that the block of each ground is left, and its parts end with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    measurements = {**MEASUREMENTS, "idle": partial(idle.at_rest, pushes=many_pushes)}
    begun, figures = time.monotonic(), []
    with place() as directory:
        for name in names or MEASUREMENTS:
            at = time.monotonic()
            with ground(directory) as its_ground:
                figures += measurements[name](its_ground)
            click.echo(f"{name}: {time.monotonic() - at:.0f} s", err=True)
    summary = f"{_machine()}; {time.monotonic() - begun:.0f} s in all"
    if page:
        _write_page(f"{rendered(figures)}\n\nOn {time.strftime('%Y-%m-%d', time.gmtime())}: {summary}.")
    if as_json:
        click.echo(
            json.dumps({"machine": _machine(), "figures": [each.as_json() for each in figures]}, indent=1)
        )
    else:
        click.echo(f"{rendered(figures)}\n\n{summary}")


def _write_page(table: str) -> None:
    before, _, rest = _PAGE.read_text().partition(_BEGIN)
    _PAGE.write_text(f"{before}{_BEGIN}\n\n{table}\n\n{_END}{rest.partition(_END)[2]}")


def _machine() -> str:
    git = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    system = f"{platform.system()} {platform.machine()}"
    return f"{os.cpu_count()} cores, {system}, Python {platform.python_version()}, {git}"


if __name__ == "__main__":
    sys.exit(main())
