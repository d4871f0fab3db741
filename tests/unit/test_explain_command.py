"""
``ferry push explain`` says of any output what the worker would have said.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from ferry.app.cli.main import main
from ferry.worker.failures import POLICIES, REWRITTEN, explain

CORPUS = sorted((Path(__file__).resolve().parents[1] / "corpus" / "push").glob("*.txt"))
_CASE = re.compile(r"(?P<header>.*?)\n--- stdout\n(?P<stdout>.*?)--- stderr\n(?P<stderr>.*)", re.DOTALL)


def _explain(*arguments, stdin=""):
    done = CliRunner().invoke(main, ["push", "explain", *arguments], input=stdin)
    assert done.exit_code == 0, done.output
    return done.output


def _header(case, name):
    return re.search(rf"^{name}: (.*)$", case["header"], re.MULTILINE)[1]


@pytest.mark.parametrize("path", CORPUS[::10], ids=lambda path: path.stem)
def test_it_agrees_with_the_corpus(path, tmp_path):
    case = _CASE.match(path.read_text())
    if _header(case, "exit") == "timeout":
        return
    (tmp_path / "out").write_text(case["stdout"])
    (tmp_path / "err").write_text(case["stderr"])
    files = ["--stdout", str(tmp_path / "out"), "--stderr", str(tmp_path / "err")]

    answer = json.loads(_explain("--json", "--exit-status", _header(case, "exit"), *files))

    assert list(answer) == ["reason", "retried", "page", "ambiguous", "rule", "evidence", "hint"]
    assert answer["reason"] == _header(case, "reason")
    assert answer["ambiguous"] == (_header(case, "ambiguous") == "yes")
    if answer["reason"] in POLICIES:
        policy = POLICIES[answer["reason"]]
        verdict = explain(int(_header(case, "exit")), case["stdout"], case["stderr"])
        expected = (policy.retried, policy.page, verdict.hint)
        assert (answer["retried"], answer["page"], answer["hint"]) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("To /srv/x.git\n!\tmain:refs/heads/main\t[rejected] (fetch first)\nDone\n", "non-fast-forward"),
        (
            "To x\n ! [rejected]        main -> main (non-fast-forward)\nerror: failed to push\n",
            "non-fast-forward",
        ),
        (
            "git@github.com: Permission denied (publickey).\nfatal: Could not read from remote repository.\n",
            "auth",
        ),
        ("To x\n \tmain:refs/heads/main\t1..2\nDone\n", "pushed"),
        ("To x\n=\tmain:refs/heads/main\t[up to date]\nDone\n", "up-to-date"),
        ("Everything up-to-date\n", "up-to-date"),
        ("To x\n   1234567..89abcde  main -> main\n", "pushed"),
        ("something that nobody has ever said\n", "unknown"),
        ("", "unknown"),
    ],
)
def test_it_reads_the_whole_output_from_standard_input(text, reason):
    assert json.loads(_explain("--json", stdin=text))["reason"] == reason
    assert _explain(stdin=text).startswith(f"reason:    {reason}\n")


def test_it_repeats_no_secret():
    url = "https://ghp_abcdefghijklmnopqrst@github.com"
    said = f"fatal: could not read Password for '{url}': terminal prompts disabled\n"
    assert "ghp_" not in _explain(stdin=said)


def test_it_tells_a_history_that_others_rewrote_from_a_fetch():
    """
    And not of what an operator has forced there.
    """
    line = " + 5c392e6...9b13063 main       -> origin/main  (forced update)\n"
    fetched = json.loads(_explain("--json", stdin=f"From git.example.org:town/data\n{line}"))
    assert (fetched["reason"], fetched["rule"]) == ("non-fast-forward", "forced-update")
    assert fetched["hint"] == REWRITTEN.hint
    pushed = json.loads(_explain("--json", stdin=f"To git.example.org:town/data\n{line}"))
    assert pushed["reason"] == "pushed"
