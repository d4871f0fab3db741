"""
The webhooks of git hosts: what each sends when people push, with its signature, byte by byte.

The bodies are written after what the hosts document, cut to what is near what Ferry reads.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import pytest
from flask.testing import FlaskClient

from ferry.app import create_app
from ferry.app.clients.signatures import Proof
from ferry.worker.bootstrap import build
from ferry.worker.errors import SettingsError
from ferry.worker.settings import Settings
from tests.parts import Bare, sample, wait_until

URL = "/api/_internal/reload-data"
SECRET, NEXT = "the-secret-of-this-year", "the-secret-of-next-year"
NEW, OLD, NONE = (
    "bffeb74224043ba2feb48d137756c8a9331c449a",
    "28e1879d029cb852e4844d9c718537df08844e03",
    "0" * 40,
)
HOSTS = ("github", "gitea", "forgejo", "gitlab", "bitbucket", "bitbucket-data-center")


def _sign(secret: str, body: bytes) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _github(ref: str, commit: str) -> dict[str, Any]:
    return {
        "ref": ref, "before": OLD, "after": commit, "created": False, "deleted": commit == NONE,
        "forced": False, "base_ref": None, "compare": f"https://github.com/town/data/compare/{OLD}...{commit}",
        "repository": {"id": 186853002, "name": "data", "full_name": "town/data", "default_branch": "main"},
        "pusher": {"name": "sam", "email": "sam@example.org"},
        "commits": [{"id": commit, "message": "Merge pull request #1\n\nÄ", "distinct": True}],
    }  # fmt: skip


def _gitea(ref: str, commit: str) -> dict[str, Any]:
    return {
        "ref": ref, "before": OLD, "after": commit, "compare_url": "http://git.town.example/town/data/compare",
        "commits": [{"id": commit, "message": "Webhooks Yay!", "author": {"name": "Gitea"}}],
        "repository": {"id": 140, "full_name": "town/data", "default_branch": "main"},
        "pusher": {"id": 1, "login": "sam"}, "sender": {"id": 1, "login": "sam"},
    }  # fmt: skip


def _gitlab(ref: str, commit: str) -> dict[str, Any]:
    return {
        "object_kind": "push", "event_name": "push", "before": OLD, "after": commit, "ref": ref,
        "ref_protected": True, "checkout_sha": None if commit == NONE else commit, "user_name": "Sam",
        "project_id": 15, "project": {"path_with_namespace": "town/data", "default_branch": "main"},
        "commits": [], "total_commits_count": 0,
    }  # fmt: skip


def _bitbucket(ref: str, commit: str) -> dict[str, Any]:
    kind, name = ("branch", ref[11:]) if ref.startswith("refs/heads/") else ("tag", ref[10:])
    there = {"type": kind, "name": name, "target": {"type": "commit", "hash": commit}}
    before = {**there, "target": {"type": "commit", "hash": OLD}}
    change = {"old": before, "new": None if commit == NONE else there, "created": False, "forced": False}
    return {"actor": {"nickname": "sam"}, "repository": {"name": "data"}, "push": {"changes": [change]}}


def _data_center(ref: str, commit: str) -> dict[str, Any]:
    kind = "BRANCH" if ref.startswith("refs/heads/") else "TAG"
    return {
        "eventKey": "repo:refs_changed", "date": "2026-11-27T10:00:00+0000", "actor": {"name": "sam"},
        "repository": {"slug": "data"},
        "changes": [{"ref": {"id": ref, "displayId": ref.rpartition("/")[2], "type": kind}, "refId": ref,
                     "fromHash": OLD, "toHash": commit, "type": "UPDATE"}],
    }  # fmt: skip


_BODIES = {
    "github": _github, "gitea": _gitea, "forgejo": _gitea, "gitlab": _gitlab, "bitbucket": _bitbucket,
    "bitbucket-data-center": _data_center,
}  # fmt: skip


def _headers(host: str, body: bytes, secret: str) -> dict[str, str]:
    signature = _sign(secret, body)
    github = {"X-GitHub-Event": "push", "X-GitHub-Delivery": "f6266f16-1bf3-46a5-9ea4-602e06ead473",
              "X-Hub-Signature-256": f"sha256={signature}"}  # fmt: skip
    # GitHub still sends the older one.
    older = {"X-Hub-Signature": f"sha1={hmac.new(secret.encode(), body, 'sha1').hexdigest()}"}
    gitea = {**github, "X-Gitea-Event": "push", "X-Gitea-Signature": signature, "X-Gogs-Event": "push"}
    return {
        "github": {**github, **older},
        "gitea": gitea,
        "forgejo": {**gitea, "X-Forgejo-Event": "push", "X-Forgejo-Signature": signature},
        "gitlab": {"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": secret},
        "bitbucket": {"X-Event-Key": "repo:push", "X-Hub-Signature": f"sha256={signature}"},
        "bitbucket-data-center": {
            "X-Event-Key": "repo:refs_changed", "X-Hub-Signature": f"sha256={signature}",
        },
    }[host]  # fmt: skip


def _deliver(
    api: FlaskClient, host: str, commit: str = NEW, *, ref: str = "refs/heads/main", secret: str = SECRET
) -> Any:
    body = json.dumps(_BODIES[host](ref, commit), ensure_ascii=False).encode()
    headers = {**_headers(host, body, secret), "Content-Type": "application/json"}
    return api.post(URL, data=body, headers=headers)


@pytest.fixture
def api(env: dict[str, str]) -> FlaskClient:
    env["CFP_DATA_RELOAD_SECRET"] = f"{SECRET}, {NEXT}"
    return create_app(env).test_client()


@pytest.fixture
def is_nudged(env: dict[str, str], api: FlaskClient) -> Callable[[], bool]:
    return build(env, publisher=True).follower.is_nudged


# --- Pushed ---


@pytest.mark.parametrize("host", HOSTS)
def test_a_push_is_answered_at_once_and_followed(api: FlaskClient, is_nudged, host: str):
    answer = _deliver(api, host)
    assert (answer.status_code, answer.json["state"]) == (202, "queued"), answer.text
    assert len(answer.json["task"]) == 36
    assert is_nudged()


def test_what_is_merged_at_github_is_read_here(api: FlaskClient, worker, env, data: Bare, remote: Bare):
    env["CFP_DATA_FOLLOW_INTERVAL"] = "0"
    running = worker()
    wait_until(lambda: remote.head() == data.head(), what="the backlog on the remote")
    remote.edit({"people/joe.toml": 'name = "Joe"\nslug = "joe"\n'})

    answer = _deliver(api, "github", str(remote.head()))

    assert answer.status_code == 202
    wait_until(lambda: api.get("/api/sheets/people/records/joe").status_code == 200, what="their record")
    assert running.await_event("follow.done")["after"] == remote.head()
    again = _deliver(api, "github", str(remote.head()))
    assert (again.status_code, again.json["state"]) == (200, "in-sync")


def test_our_own_push_and_other_branches_and_tags_cost_no_look(api: FlaskClient, is_nudged, data):
    for host in HOSTS:
        assert _deliver(api, host, data.head()).json["state"] == "in-sync"
        assert _deliver(api, host, ref="refs/heads/main/other").json["state"] == "ignored"
        assert _deliver(api, host, ref="refs/tags/main").json["state"] == "ignored"
        assert not is_nudged()


def test_a_branch_that_was_removed_is_looked_at(api: FlaskClient, is_nudged):
    assert [_deliver(api, host, NONE).status_code for host in HOSTS] == [202] * len(HOSTS)
    assert is_nudged()


def test_a_forced_push_to_a_commit_of_ours_is_looked_at(api: FlaskClient, is_nudged, data: Bare):
    body = json.dumps({**_github("refs/heads/main", str(data.head())), "forced": True}).encode()
    answer = api.post(URL, data=body, headers=_headers("github", body, SECRET))
    assert answer.status_code == 202
    assert is_nudged()


def test_one_of_several_changes_of_a_push_may_be_ours(api: FlaskClient, is_nudged):
    """
    Bitbucket tells of all branches of a push at once.
    """
    changes = [_bitbucket(ref, NEW)["push"]["changes"][0] for ref in ("refs/heads/other", "refs/heads/main")]
    body = json.dumps({"push": {"changes": changes}}).encode()
    assert api.post(URL, data=body, headers=_headers("bitbucket", body, SECRET)).status_code == 202


def test_github_may_send_a_form(api: FlaskClient, is_nudged):
    """
    It signs the form, not the JSON in it.
    """
    body = urlencode({"payload": json.dumps(_github("refs/heads/main", NEW))}).encode()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert api.post(URL, data=body, headers={**_headers("github", body, SECRET), **form}).status_code == 202


@pytest.mark.parametrize(
    "event", [{"X-GitHub-Event": "ping"}, {"X-Event-Key": "diagnostics:ping"}, {"X-Gitea-Event": "ping"}]
)
def test_a_ping_is_answered(api: FlaskClient, is_nudged, event: dict[str, str]):
    body = b'{"zen": "Design for failure.", "hook_id": 1}'
    headers = {**event, "X-Hub-Signature-256": f"sha256={_sign(SECRET, body)}"}
    answer = api.post(URL, data=body, headers=headers)
    assert (answer.status_code, answer.json["state"]) == (200, "pong")
    assert not is_nudged()


def test_other_events_are_ignored(api: FlaskClient):
    body = b'{"object_kind": "merge_request"}'
    for event in (
        {"X-GitHub-Event": "pull_request"},
        {"X-Gitlab-Event": "Tag Push Hook"},
        {"X-Event-Key": "pullrequest:fulfilled"},
        {"X-Gitlab-Event": "System Hook"},
    ):
        headers = {**event, "X-Hub-Signature": f"sha256={_sign(SECRET, body)}"}
        assert api.post(URL, data=body, headers=headers).json["state"] == "ignored"


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
def test_a_signed_body_of_another_form_is_named(api: FlaskClient, kind: str):
    bodies = (
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"ref": 7, "after": "x"}',
        b"\xff",
        b"payload=%7B",
        b"[" * 9999,
        b"null",
    )
    for body in bodies:
        headers = {"X-GitHub-Event": "push", "X-Hub-Signature-256": f"sha256={_sign(SECRET, body)}"}
        answer = api.post(URL, data=body, headers={**headers, "Content-Type": kind})
        assert (answer.status_code, answer.json["code"]) == (400, "body-invalid"), body[:20]


def test_a_broker_that_is_away_loses_no_nudge(env, data):
    env |= {"CFP_DATA_RELOAD_SECRET": SECRET, "CFP_REDIS_URL": "redis://127.0.0.1:9/0"}
    api = create_app(env).test_client()
    answer = _deliver(api, "github")
    assert (answer.status_code, answer.json["task"]) == (202, None)
    assert build(env, publisher=True).follower.is_nudged()


# --- Refused ---


@pytest.mark.parametrize("host", HOSTS)
def test_each_of_several_secrets_counts_and_no_other(api: FlaskClient, host: str):
    assert _deliver(api, host, secret=NEXT).status_code == 202
    for wrong in ("another-secret-of-this-year", f"{SECRET}, {NEXT}", ""):
        answer = _deliver(api, host, secret=wrong)
        assert (answer.status_code, answer.json["code"]) == (401, "unauthorized")


def test_a_signature_is_of_this_body_whole_and_of_the_right_kind(api: FlaskClient, is_nudged):
    body = json.dumps(_github("refs/heads/main", NEW)).encode()
    signature = _sign(SECRET, body)
    wrong: list[Mapping[str, str]] = [
        {},
        {"X-Hub-Signature-256": signature},
        {"X-Hub-Signature-256": f"sha256={signature[:-1]}"},
        {"X-Hub-Signature-256": f"sha256={_sign(SECRET, body + b' ')}"},
        {"X-Hub-Signature": f"sha1={hmac.new(SECRET.encode(), body, 'sha1').hexdigest()}"},
        {"X-Gitea-Signature": f"sha256={signature}"},
        {"X-Gitlab-Token": signature},
        {"Authorization": f"Basic {SECRET}"},
        {"X-Hub-Signature-256": f"sha256={SECRET}"},
    ]
    for headers in wrong:
        assert api.post(URL, data=body, headers={"X-GitHub-Event": "push", **headers}).status_code == 401
    assert not is_nudged()
    text = api.get("/metrics").text
    assert sample(text, "ferry_webhooks_total", host="github", outcome="refused") >= len(wrong)


def test_a_secret_that_is_set_is_asked_for_under_ferry_dev_too(env):
    env["CFP_DATA_RELOAD_SECRET"] = SECRET
    api = create_app(env, open_access=True).test_client()
    assert _deliver(api, "gitlab", secret="wrong-and-of-some-length").status_code == 401
    assert _deliver(api, "gitlab").status_code == 202


def test_a_webhook_without_a_secret_is_closed(env):
    answer = _deliver(create_app(env).test_client(), "github")
    assert (answer.status_code, answer.json["code"]) == (503, "reload-closed")


def test_a_signature_is_what_github_documents():
    """
    Its own test values, https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries.
    """
    given = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert Proof(given, is_signature=True).holds(b"Hello, World!", ["It's a Secret to Everybody"])


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        ("s3cret", ("s3cret",)),
        (f"{SECRET} {NEXT}", (SECRET, NEXT)),
        (f" {SECRET},\n{NEXT}, ", (SECRET, NEXT)),
    ],
)
def test_secrets_are_separated_by_blanks_or_commas(env, text: str, secrets: tuple[str, ...]):
    assert Settings.from_env({**env, "CFP_DATA_RELOAD_SECRET": text}).data_reload_secrets == secrets


@pytest.mark.parametrize("text", ["a reload secret", f"{SECRET},x", ","])
def test_the_words_of_a_sentence_are_no_secrets(env, text: str):
    with pytest.raises(SettingsError, match="CFP_DATA_RELOAD_SECRET: must be a secret") as refused:
        Settings.from_env({**env, "CFP_DATA_RELOAD_SECRET": text})
    assert SECRET not in str(refused.value)
