"""
The command ``ferry``.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, TextIO, cast

import click

from worker import logs
from worker.errors import WorkerError
from worker.failures import POLICIES, Reason, Verdict, explain
from worker.redaction import redact


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ferry")
def main() -> None:
    """
    A REST API over a gitsheets repository, whose every commit reaches its remote.
    """


@main.command()
@click.argument("repository", required=False, type=click.Path(path_type=Path))
@click.option("--remote", help="git URL or path of the remote. Default: CFP_DATA_REMOTE.")
@click.option("--port", default=8000, show_default=True, help="The API's port; 0 for a free one.")
@click.option("--flower-port", default=5555, show_default=True, help="Flower's port; 0 for a free one.")
def dev(repository: Path | None, remote: str | None, port: int, flower_port: int) -> None:
    """
    Run everything on this machine, over the bare REPOSITORY or a sample.

    Brings its own Valkey, listens on loopback alone, asks for no token, and
    honours every other CFP_* variable. Ctrl-C ends all of it.
    """
    from app.dev import DevError, run_dev

    logs.configure()
    try:
        run_dev(repository, remote, port=port, flower_port=flower_port)
    except (DevError, WorkerError) as exc:
        sys.exit(f"ferry: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)


@main.command()
def demo() -> None:
    """
    Show the main job: commits made over HTTP arrive at a remote.

    Makes a sample repository and a remote, starts everything on free ports,
    writes records, provokes a non-fast-forward and shows the page. Ends by
    itself; its status is 0 only if all of that happened.
    """
    from app.demo import DemoError, run_demo
    from app.dev import DevError

    try:
        run_demo()
    except (DemoError, DevError, WorkerError) as exc:
        sys.exit(f"ferry demo failed: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)


@main.group()
def push() -> None:
    """
    Look at the pushes, and act on them.
    """


@push.command("explain")
@click.option("--exit-status", type=int, help="git push's exit status. Default: what the output speaks for.")
@click.option(
    "--stdout", type=click.File(errors="replace"), help="File with what it wrote to standard output."
)
@click.option(
    "--stderr", type=click.File(errors="replace"), help="File with what it wrote to standard error."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain_output(
    exit_status: int | None, stdout: TextIO | None, stderr: TextIO | None, as_json: bool
) -> None:
    """
    Say why a push failed, from git's own output.

    Without --stdout and --stderr, reads all of it from standard input, such as
    `git push 2>&1 | ferry push explain`.
    """
    if stdout or stderr:
        printed, said = (file.read() if file else "" for file in (stdout, stderr))
    else:
        printed, said = _apart(sys.stdin.buffer.read().decode("utf-8", "replace"))
    if exit_status is None:
        exit_status = _likely_status(printed, said)
    answer = _explanation(explain(exit_status, redact(printed), redact(said)))
    if as_json:
        click.echo(json.dumps(answer))
        return
    for name, value in answer.items():
        click.echo(f"{name + ':':<11}{'yes' if value is True else 'no' if value is False else value or '-'}")


def _explanation(verdict: Verdict) -> dict[str, Any]:
    policy = None if verdict.landed else POLICIES[cast(Reason, verdict.reason)]
    return {
        "reason": verdict.reason,
        "retried": policy.retried if policy else False,
        "page": policy.page if policy else None,
        "ambiguous": verdict.ambiguous,
        "rule": verdict.rule,
        "evidence": verdict.evidence,
        "hint": policy.hint if policy else "Nothing: the remote has the commit.",
    }


# What `git push --porcelain` writes to standard output; all else goes to standard error.
_PORCELAIN = re.compile(r"[ +*=!-]\t\S*:\S*\t|Done$")


def _apart(text: str) -> tuple[str, str]:
    lines = text.splitlines(keepends=True)
    printed = [line for line in lines if _PORCELAIN.match(line)]
    return "".join(printed), "".join(line for line in lines if not _PORCELAIN.match(line))


def _likely_status(printed: str, said: str) -> int:
    if re.search(r"^!\t|^ ! \[|^error:", printed + said, re.MULTILINE):
        return 1
    if re.search(r"^(?:fatal|ssh|ERROR|remote: ERROR):|Permission denied", said, re.MULTILINE):
        return 128
    return 0 if re.search(r"^[ +*=-]\t|->|^Everything up-to-date", printed + said, re.MULTILINE) else 1
