"""
That a failed push is told apart from every other, by real outputs.

``tests/corpus/push`` holds one finished push per file. Headers say what it means (``reason``,
``ambiguous``, perhaps ``retry-after`` in seconds), how git ended (``exit``) and where that is known from
(``source``: measured, documented by the host or its source, or worded as such a program would); then follow
stdout and stderr. Blanks at the ends of lines are left out. A failure that Ferry got wrong belongs there as
one more file.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferry.worker.failures import POLICIES, REFUSED, UNANSWERED, Reason, Verdict, explain

CORPUS = Path(__file__).resolve().parents[1] / "corpus" / "push"
_FILE = re.compile(r"(?P<header>.*?)\n--- stdout\n(?P<stdout>.*?)--- stderr\n(?P<stderr>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Case:
    """
    One finished push, and what it means.
    """

    name: str
    source: str
    exit_status: int | None
    stdout: str
    stderr: str
    reason: str
    ambiguous: bool
    retry_after_s: float | None

    def explained(self) -> Verdict:
        return explain(self.exit_status, self.stdout, self.stderr)


def _read(path: Path) -> Case:
    match = _FILE.fullmatch(path.read_text())
    assert match, f"{path.name} is not in the corpus's format"
    header = dict(line.split(": ", 1) for line in match["header"].splitlines())
    wait = header.pop("retry-after", None)
    case = Case(
        name=path.stem,
        reason=header.pop("reason"),
        ambiguous={"yes": True, "no": False}[header.pop("ambiguous")],
        exit_status=None if (status := header.pop("exit")) == "timeout" else int(status),
        source=header.pop("source"),
        stdout=match["stdout"],
        stderr=match["stderr"],
        retry_after_s=float(wait) if wait else None,
    )
    assert not header, f"{path.name} has headers that nobody reads: {sorted(header)}"
    return case


CASES = [_read(path) for path in sorted(CORPUS.glob("*.txt"))]
REFUSALS = [case for case in CASES if "\n!\t" in case.stdout]

each_case = pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])


# --- What each output means ---


@each_case
def test_a_push_is_told_by_what_it_printed(case: Case):
    """
    The evidence is one of its lines: operators are shown it as what git said.
    """
    verdict = case.explained()

    said = (verdict.reason, verdict.ambiguous, verdict.retry_after_s)
    assert said == (case.reason, case.ambiguous, case.retry_after_s), verdict
    assert verdict.evidence in {line.strip() for line in (case.stdout + case.stderr).splitlines()} | {""}
    if not verdict.landed and verdict.reason != "timeout":
        assert verdict.evidence or not case.stderr


def test_every_rule_decides_a_case():
    """
    A rule that no output needs is a guess, or hidden by one above it.
    """
    deciding = {case.explained().rule for case in CASES}

    assert {rule.name for rule in (*REFUSED, *UNANSWERED)} - deciding == set()


def test_every_rule_is_in_lower_case():
    """
    As the lines are in which it is looked for; a capital letter would match nothing.
    """
    patterns = {rule.name: re.sub(r"\\.", "", rule.pattern.pattern) for rule in (*REFUSED, *UNANSWERED)}

    assert [name for name, pattern in patterns.items() if pattern != pattern.lower()] == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("github-gh006-pull-requests-only", "cannot serve a branch that takes pull requests only"),
        ("github-gh013-pull-requests-only", "cannot serve a branch that takes pull requests only"),
        ("gitlab-protected-branch", "cannot serve a branch that takes pull requests only"),
        ("gitea-protected-branch", "cannot serve a branch that takes pull requests only"),
        ("bitbucket-server-pull-request-only", "cannot serve a branch that takes pull requests only"),
        ("azure-tf402455", "cannot serve a branch that takes pull requests only"),
        ("github-gh013-unsigned", "CFP_DATA_SIGNING_KEY_PATH"),
        ("gitlab-unsigned", "CFP_DATA_SIGNING_KEY_PATH"),
        ("gitea-unverified", "CFP_DATA_SIGNING_KEY_PATH"),
        ("github-gh006-protected-branch", POLICIES["rejected"].hint),
    ],
)
def test_a_protected_branch_has_the_remedy_of_its_own_rule(name: str, words: str):
    [case] = [case for case in CASES if case.name == name]

    assert case.reason == "rejected"
    assert words in case.explained().hint


def test_the_corpus_has_every_reason_and_says_where_it_is_from():
    assert {case.reason for case in CASES} == {*POLICIES, "pushed", "up-to-date"} - {"stalled"}
    assert {case.source.split(" ", 1)[0] for case in CASES} == {"measured", "documented", "worded"}


# --- What must make no difference ---


def _shuffled(text: str) -> str:
    lines = text.splitlines(keepends=True)
    random.Random(len(text)).shuffle(lines)  # noqa: S311 - the same disorder on every run
    return "".join(lines)


def _padded(text: str) -> str:
    """
    Pad the remote's lines as git does, to wipe what a terminal showed there before.
    """
    return re.sub(r"^(remote:.*)$", r"\1        ", text, flags=re.MULTILINE)


def _coloured(text: str) -> str:
    return re.sub(r"^((?:remote: )?)(error|fatal)", "\\1\x1b[1;31m\\2\x1b[m", text, flags=re.MULTILINE)


def _after_progress(text: str) -> str:
    return "Writing objects:  50% (1/2)\rWriting objects: 100% (2/2), done.\n" + text


def _after_a_banner(text: str) -> str:
    return "Unauthorized access is prohibited. Maintenance, reboots and disconnects on Sundays.\n" + text


# What hosts and hooks print beside what matters, with words in it that mean something elsewhere.
CHATTER = [
    "remote: Processing changes: refs: 1, done",
    "remote: To create a merge request for main, visit:",
    "remote:   https://git.example/town/records/-/merge_requests/new?title=timeout",
    "remote: GitHub found 3 vulnerabilities on example/records's default branch. To find out more, visit:",
    "remote: people/not-found.toml: ok",
    "remote: Permission denied is the title of people/jane",
    "remote: the branch denied is up to date",
    "remote: warning: people/bob: name not found in the register",
    "remote: see https://rules.example/timeouts/rate-limit",
    "remote: record 'internal server error' was added",
    "remote: 1b2c3d4 Fix: page not found",
    "remote: Checking records: this may take a while, the timeout is 30 s",
]


def _among_chatter(text: str) -> str:
    lines = text.splitlines()
    order = random.Random(len(text))  # noqa: S311 - the same disorder on every run
    for line in CHATTER:
        lines.insert(order.randrange(len(lines) + 1), line)
    return "\n".join(lines)


_explained = cache(explain)  # most changes leave most outputs as they are


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(lambda text: "".join(reversed(text.splitlines(keepends=True))), id="reversed"),
        pytest.param(_shuffled, id="shuffled"),
        pytest.param(_padded, id="padded"),
        pytest.param(_coloured, id="coloured"),
        pytest.param(_after_progress, id="progress"),
        pytest.param(_after_a_banner, id="banner"),
        pytest.param(_among_chatter, id="chatter"),
        pytest.param(lambda text: "hint: error: RPC failed; HTTP 429\n" + text, id="hint"),
        pytest.param(
            lambda text: "warning: redirecting to https://rate-limited.example/\n" + text, id="warning"
        ),
    ],
)
def test_what_surrounds_the_words_makes_no_difference(change: Callable[[str], str]):
    """
    Nor does the order of the lines: stderr is written by several processes at once.
    """
    misread = {}
    for case in CASES:
        verdict = _explained(case.exit_status, case.stdout.replace("\n", "\r\n"), change(case.stderr))
        if (verdict.reason, verdict.ambiguous) != (case.reason, case.ambiguous):
            misread[case.name] = verdict

    assert misread == {}


def _as_for_people(case: Case) -> tuple[str, str]:
    """
    Return stdout and stderr as they are without ``--porcelain``.
    """
    lines = re.findall(r"^!\t(\S*):(\S*)\t(\[.*?\])( \(.*\))$", case.stdout, re.MULTILINE)
    shown = [
        f" ! {kind:<19} {source or target} -> {target}{words}\n" for source, target, kind, words in lines
    ]
    return "", case.stderr + "".join(shown)


def test_a_refusal_reads_the_same_without_porcelain():
    misread = {}
    for case in REFUSALS:
        verdict = explain(case.exit_status, *_as_for_people(case))
        if verdict.reason != case.reason:
            misread[case.name] = verdict

    assert misread == {}


def test_what_we_ended_ourselves_is_a_timeout_whatever_it_had_said():
    """
    It may have landed: git reports a ref only after the remote has moved it.
    """
    verdicts = [explain(None, case.stdout, case.stderr) for case in CASES]

    assert {(verdict.reason, verdict.ambiguous) for verdict in verdicts} == {("timeout", True)}


# --- Who speaks ---

REF = "refs/heads/main:refs/heads/main"


def _refused(label: str, *said: str) -> Verdict:
    return explain(1, f"To origin\n!\t{REF}\t[remote rejected] ({label})\nDone\n", "\n".join(said))


def test_the_same_words_mean_another_thing_from_another_mouth():
    """
    A full disk here is ours to empty and pages at once; one over there is the host's.
    """
    full = "fatal: write error: No space left on device"

    assert explain(128, "", full).reason == "local"
    assert _refused("unpacker error", f"remote: {full}").reason == "server"


def test_a_refusal_that_a_hook_merely_quotes_is_not_ours():
    quoted = "remote:  ! [rejected]        main -> main (fetch first)"

    assert _refused("pre-receive hook declined", quoted).reason == "rejected"


@pytest.mark.parametrize(
    "host", ["localhost", "ghost", "my-host", "host", "host:", "denied", "192.0.2.1", "::1"]
)
@pytest.mark.parametrize("methods", ["publickey", "publickey,password,keyboard-interactive"])
def test_a_refused_key_is_told_whatever_the_host_is_called(host: str, methods: str):
    said = f"git@{host}: Permission denied ({methods}).\nfatal: Could not read from remote repository.\n"

    assert explain(128, "", said).reason == "auth"


def test_a_pre_push_hook_is_ours_whatever_it_says():
    """
    It runs here, on our behalf: what the programs say that it runs is not the remote's answer.
    """
    begun = (
        "send-pack:",
        "fatal: the remote end hung up",
        "fatal: git-http-push failed",
        "error: RPC",
        "!",
        " !",
    )
    failed = "error: failed to push some refs to 'git@git.example:records'"
    misread = {}
    for case in CASES:
        said = [line for line in case.stderr.splitlines() if not line.startswith(begun)]
        if (verdict := explain(1, "", "\n".join([*said, failed]))).reason != "local":
            misread[case.name] = verdict

    assert misread == {}


def test_a_bare_hook_decline_shows_the_hooks_own_words():
    """
    The label alone would send the operator to the server's logs.
    """
    verdict = _refused(
        "pre-receive hook declined",
        "remote: Resolving deltas: 100% (3/3)",
        "remote: =====",
        "remote: people/jane lacks a name",
    )

    assert verdict.evidence == "remote: people/jane lacks a name"


@pytest.mark.parametrize(
    ("said", "evidence"),
    [
        ("fatal: Could not read from remote repository.\n\nand the repository exists.\n", None),
        ("The moon is full.\nfatal: Could not read from remote repository.\n", "The moon is full."),
        ("fatal: one\nfatal: two\nhint: three\n", "fatal: two"),
        ("", ""),
    ],
)
def test_the_unknown_keeps_the_last_line_that_says_something(said: str, evidence: str | None):
    verdict = explain(128, "", said)

    assert verdict.reason == "unknown"
    assert verdict.evidence == (
        "fatal: Could not read from remote repository." if evidence is None else evidence
    )


# --- A stated wait ---


@pytest.mark.parametrize(
    ("said", "wait_s"),
    [
        ("Retry-After: 120", 120),
        ("retry after 30 seconds", 30),
        ("Please retry after 2 minutes.", 120),
        ("Please wait 60 seconds before you try again.", 60),
        ("Try again in 1 hour", 3600),
        ("try your push again in about 5 min", 300),
        ("retry in 1m30s", 90),
        ("Please wait 1 minute and 5 seconds", 65),
        ("retry in 0.5s", 0.5),
        ("Please try again in a minute.", 60),
        ("Try again in an hour", 3600),
        ("Please try again in a moment.", None),
        ("retry after 500 ms", 0.5),
        ("retry after 1500 milliseconds", 1.5),
        ("Please wait 10 more minutes", 600),
        ("Try again in: 30 seconds", 30),
        ("retry_after_seconds: 45", 45),
        ("Retry-After: 2m", 120),
        ("Retry-After: 1.5", 1.5),
        ("retryDelay: 30s", 30),
        ("Rate limit resets in 7 minutes", 420),
        ("Request was throttled. Expected available in 86 seconds.", 86),
        ("Please try again after 2 weeks", None),
        ("try again in 01:30", None),
        ("Retry-After: 12O", None),
        ("X-Rate-Limit-Reset: 1790000000", None),
        ("Please wait a few minutes before you try again.", None),
        ("Retry-After: Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("try again, request 7f3 failed", None),
    ],
)
def test_a_wait_that_the_remote_names_is_read_in_seconds(said: str, wait_s: float | None):
    verdict = explain(128, "", f"remote: {said}\nfatal: unable to access 'https://x/': {HTTP_429}")

    assert (verdict.reason, verdict.retry_after_s) == ("rate-limited", wait_s)


HTTP_429 = "The requested URL returned error: 429"


def test_a_refusal_by_policy_names_no_wait():
    """
    A hook's "wait 2 days for the review" must not become our schedule: nothing is retried.
    """
    assert _refused("pre-receive hook declined", "remote: wait 2 days for the review").retry_after_s is None


# --- What each reason leads to ---


def test_only_what_a_retry_can_heal_is_retried():
    """
    A divergence and a refusal stay until a person acts, so that retrying is noise.
    """
    assert {reason for reason, policy in POLICIES.items() if not policy.retried} == {
        "non-fast-forward",
        "rejected",
    }


def test_only_what_may_pass_by_itself_waits_with_the_page():
    waiting = {reason for reason, policy in POLICIES.items() if policy.page == "after-a-while"}

    assert waiting == {"locked", "network", "timeout", "server", "rate-limited", "unknown"}


def test_nothing_is_given_up_in_silence():
    """
    What is not retried pages at once: otherwise commits would wait with nobody told.
    """
    assert all(policy.retried or policy.page == "at-once" for policy in POLICIES.values())


@pytest.mark.parametrize("reason", get_args(Reason))
def test_every_reason_tells_the_operator_one_next_step(reason: Reason):
    hint = POLICIES[reason].hint

    assert hint[0].isupper()
    assert hint.endswith(".")
    assert ". " not in hint


# --- Any output at all ---


def _output() -> st.SearchStrategy[str]:
    """
    Real lines in any company, and noise.
    """
    known = sorted({line for case in CASES for line in (case.stdout + case.stderr).splitlines()})
    line = st.one_of(st.sampled_from(known), st.text(max_size=40))
    return st.lists(line, max_size=12).map("\n".join)


STATUSES = st.one_of(st.none(), st.sampled_from([0, 1, 128, 129, 124, -9, -11, 141]), st.integers(-64, 255))


@given(exit_status=STATUSES, stdout=_output(), stderr=_output())
def test_any_output_gets_a_verdict(exit_status: int | None, stdout: str, stderr: str):
    """
    And only git's own success is one: no words turn a failure into "pushed".
    """
    verdict = explain(exit_status, stdout, stderr)

    assert verdict.landed or verdict.reason in POLICIES
    assert not verdict.landed or (exit_status == 0 and not verdict.ambiguous)
    assert verdict.evidence == "" or verdict.rule


@given(stderr=_output())
def test_a_success_is_one_whatever_stderr_says(stderr: str):
    """
    A failing post-receive hook, or a remote-tracking ref that would not move, complains at length.
    """
    assert explain(0, f"To origin\n \t{REF}\t1111111..2222222\nDone\n", stderr).reason == "pushed"


@given(stderr=_output())
def test_done_alone_is_always_doubtful(stderr: str):
    """
    The HTTP exchange died after the pack was sent; in every measured case of a lost reply it had landed.
    """
    verdict = explain(1, "Done\n", stderr)

    assert verdict.ambiguous


_LINES = 512 * 1024 // 1000
_WORDS = (
    "exceeded repository cannot unable failed project key access rate limit try wait again denied not for"
)


def _hostile() -> Iterator[str]:
    for piece in ("exceeded over ", "repository ", "'/", "x", "a@", "wait 1s", "cannot (", '"`'):
        yield "\n".join([("remote: try " + piece * 500)[:1000]] * _LINES)
    yield "remote: cannot unable failed repository " * 12_000
    order = random.Random(16)  # noqa: S311 - the same on every run
    yield "\n".join("remote: " + " ".join(order.choices(_WORDS.split(), k=150)) for _ in range(_LINES))


@pytest.mark.parametrize("said", [pytest.param(said, id=str(i)) for i, said in enumerate(_hostile())])
def test_half_a_megabyte_of_anything_is_read_at_once(said: str):
    """
    Nothing that a hook prints makes a pattern go back and forth over it.
    """
    refused = f"To origin\n!\t{REF}\t[remote rejected] ({said[:5000]}) (pre-receive hook declined)\n"
    begun = time.process_time()

    explain(128, "", said)
    explain(1, refused + said, said)

    assert time.process_time() - begun < 3  # of some tenths, so that no other load counts
