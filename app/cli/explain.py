"""
``ferry push explain``: why a push failed, from git's own output.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any, TextIO

import click

from ferry.worker.failures import Verdict, explain, policy_of
from ferry.worker.observe.redaction import redact


@click.command("explain")
@click.option("--exit-status", type=int, help="git push's exit status. Default: deduced from the output.")
@click.option("--stdout", type=click.File(errors="replace"), help="File with its standard output.")
@click.option("--stderr", type=click.File(errors="replace"), help="File with its standard error.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain_push(
    exit_status: int | None,
    stdout: TextIO | None,
    stderr: TextIO | None,
    as_json: bool,
) -> None:
    """
    Explain why a push failed, from the output of git push.

    Without --stdout and --stderr, reads both from standard input, such as
    `git push 2>&1 | ferry push explain`.
    """
    if stdout or stderr:
        printed, said = (file.read() if file else "" for file in (stdout, stderr))
    else:
        printed, said = _apart(sys.stdin.buffer.read().decode("utf-8", "replace"))
    forced = _FORCED.search(printed + said) if re.search("^From ", said, re.MULTILINE) else None
    if exit_status is None:
        exit_status = _likely_status(printed, said)
    verdict = explain(exit_status, redact(printed), redact(said))
    if forced:  # a fetch says so, of what others did
        verdict = Verdict("non-fast-forward", "forced-update", forced[0].strip(), ambiguous=False)
    answer = _explanation(verdict)
    if as_json:
        click.echo(json.dumps(answer))
        return
    for name, value in answer.items():
        click.echo(f"{name + ':':<11}{'yes' if value is True else 'no' if value is False else value or '-'}")


def _explanation(verdict: Verdict) -> dict[str, Any]:
    policy = policy_of(verdict.reason, rewritten=verdict.rule == "forced-update")
    return {
        "reason": verdict.reason,
        "retried": policy.retried if policy else False,
        "page": policy.page if policy else None,
        "ambiguous": verdict.ambiguous,
        "rule": verdict.rule,
        "evidence": verdict.evidence,
        "hint": verdict.hint,
    }


# What `git fetch` writes of a branch whose history others rewrote.
_FORCED = re.compile(r"^ ?\+ [0-9a-f]{4,40}\.{3}[0-9a-f]{4,40}\s.*\(forced update\)", re.MULTILINE)
# What `git push --porcelain` writes to standard output; all else goes to standard error.
_PORCELAIN = re.compile(r"[ +*=!-]\t\S*:\S*\t|Done$")


def _apart(text: str) -> tuple[str, str]:
    lines = text.splitlines(keepends=True)
    printed = [line for line in lines if _PORCELAIN.match(line)]
    return "".join(printed), "".join(line for line in lines if not _PORCELAIN.match(line))


def _likely_status(stdout: str, stderr: str) -> int:
    if re.search(r"^!\t|^ ! \[|^error:", stdout + stderr, re.MULTILINE):
        return 1
    if re.search(r"^(?:fatal|ssh|ERROR|remote: ERROR):|Permission denied", stderr, re.MULTILINE):
        return 128
    return 0 if re.search(r"^[ +*=-]\t|->|^Everything up-to-date", stdout + stderr, re.MULTILINE) else 1
