"""
The operators' page, as somebody sees it whose browser runs no JavaScript.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time

import pytest

from ferry.app import create_app
from ferry.app.status_page.sessions import LASTS_S, Sessions
from ferry.worker.failures import POLICIES
from ferry.worker.files.places import remotes_directory
from tests.pages import Browser, Page
from tests.parts import Bare, least, wait_until

TOKEN = "correct horse battery staple"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\" ' & {{ 7 * 7 }}"


@pytest.fixture
def browser(client):
    return Browser(client())


@pytest.fixture
def guarded(env):
    """
    Somebody before a deployment that asks for CFP_ADMIN_TOKEN.
    """
    return Browser(create_app({**env, "CFP_ADMIN_TOKEN": TOKEN}).test_client())


def _write(browser, slug="jane", **record):
    answer = browser.client.put(
        f"/api/sheets/people/records/{slug}", json={"slug": slug, "name": "Jane", **record}
    )
    assert answer.status_code in (200, 201), answer.text
    return answer.json["commit"]["hash"]


def _takes(do):
    begun = time.monotonic()
    do()
    return time.monotonic() - begun


def _shows(browser, *needed):
    """
    Wait until the page says all of *needed*, and return it.
    """

    def look():
        page = browser.open()
        return page if all(words in page.text for words in needed) else None

    return wait_until(look, what=f"a page with {needed}")


# --- The six states, in words ---


def test_disabled(env):
    del env["CFP_DATA_REMOTE"]
    page = Browser(create_app(env, open_access=True).test_client()).open()
    assert "origin – disabled No remote is configured" in page.text
    assert [form.button for form in page.forms] == []


def test_queued(env, client):
    """
    Without a worker the commits wait, and the page says who is missing.
    """
    env["CFP_PUSH_SWEEP_INTERVAL"] = "60"  # no commit has stalled, however slowly the page answers
    browser = Browser(client())
    _write(browser)
    page = _shows(browser, "none answers Start a worker with: celery -A ferry.worker worker")
    assert "origin … queued" in page.text
    assert "Waiting 3 commits, the oldest for" in page.text
    assert "No worker answers. 3 commits pending." in page.text
    assert "Beat ? unknown Sweeps need the broker and a worker." in page.text
    assert "origin: … pending" in page.text
    assert "Last push none yet" in page.text


def test_idle(browser, worker, beat):
    running, _ = worker(), beat()
    _shows(browser, "Beat ✓ alive")  # first: it may take a while on a busy machine
    commit = _write(browser)
    running.await_event("push.done")
    page = _shows(browser, "origin ✓ idle", "Beat ✓ alive", "Broker ✓ answers", "Data disk ✓ has room")
    assert "Every commit is on every remote." in page.text
    assert "Worker ✓ alive celery@" in page.text
    assert f"{commit[:10]} by dev" in page.text
    assert "origin: ✓ pushed" in page.text
    assert "pending" not in page.text
    assert re.search(r"Last push [\d.]+ s ago", page.text)
    assert re.search(r"Repository [\d.]+ KiB: 1 pack with", page.text)


def test_pushing(browser, worker, remote):
    remote.hook("pre-receive", "while [ ! -e go ]; do sleep 0.05; done")
    worker()
    _write(browser)
    try:
        assert "A push is running." in _shows(browser, "origin ↑ pushing").text
    finally:
        (remote.path / "go").touch()
    _shows(browser, "origin ✓ idle")


def test_retrying(browser, worker, env, remote, tmp_path):
    """
    The next attempt is counted down to, also where no script counts.
    """
    env["CFP_PUSH_BACKOFF_BASE"], env["CFP_PUSH_BACKOFF_CAP"] = "60", "60"
    remote.path.rename(tmp_path / "away.git")
    worker()
    _write(browser)
    page = _shows(browser, "origin ! retrying")
    assert "origin: a person is needed (not-found); 3 commits pending." in page.text
    assert "A person is needed , for" in page.text
    assert re.search(r"Next attempt in \d+ s", page.text)
    assert "Last error: not-found" in page.text
    assert any("data-until" in attributes for _, attributes in page.tags)


def test_blocked_says_why_and_what_to_do(env, client, worker, remote, data, ferry, sentry):
    """
    The rule's own words, all of them, and what to type: here, at the command line, in the log and in Sentry.
    """
    env["CFP_PUSH_SWEEP_INTERVAL"] = "60"  # without beat, what waits would stall meanwhile
    browser = Browser(client())
    words = ("the town hall is closed <b>today</b>", "ask: https://hall.example/unblock/7")
    remote.hook("pre-receive", "".join(f'echo "{each}" >&2; ' for each in words) + "exit 1")
    running = worker(SENTRY_DSN=sentry.dsn)
    _write(browser)
    page = _shows(browser, "origin ! blocked", "Last error: rejected")
    assert "A person is needed; commits are kept and wait." in page.text
    assert "the town hall is closed" in page.text
    assert "Change the remote's rule, or the commit that breaks it" in page.text
    shown = ferry("push", "status", CFP_API_PUBLIC_URL="https://records.example").stdout
    for command in ("ferry push find-refused --remote origin", "ferry push now --remote origin"):
        assert command in page.text
        assert f"    {command}\n" in shown
    assert "  runbook: https://records.example/status/runbook#rejected\n" in shown
    wait_until(lambda: sentry.events, what="the page")
    said = sentry.events[0]["contexts"]["push"]["what_git_said"]
    for told in (page.text, shown, running.events("push.blocked")[0]["said"], said):
        assert "https://hall.example/unblock/7" in told
    assert "<b>today" not in browser.answer.text
    links = [attributes.get("href") for tag, attributes in page.tags if tag == "a"]
    assert "/status/runbook#rejected" in links
    assert "The remote understood the push and refuses it" in browser.open("/status/runbook").text


def test_a_paused_remote_says_so_and_how_to_go_on(browser):
    _write(browser)
    with browser.client.application.extensions["ferry"].pipeline.ledger.claim("origin") as claim:
        claim.write(paused_at=time.time() - 90)
    page = browser.open()
    assert "origin ‖ paused An operator has paused this remote" in page.text
    assert "Paused 1 min 30 s ago, by an operator; until resumed" in page.text
    assert "It is paused" in browser.press(page, "Push now").text


def test_a_remote_is_paused_and_resumed(browser, worker, remote):
    worker()
    wait_until(lambda: remote.head(), what="the first push")
    there = remote.head()
    paused = browser.press(browser.open(), "Pause", reason="the <b>host</b> moves", lasts="4h")
    assert "It is paused" in paused.text
    assert "by dev@127.0.0.1: the <b>host</b> moves; until 20" in paused.text
    commit = _write(browser)
    page = _shows(browser, "‖ paused", "1 commit pending")
    assert remote.head() == there
    assert (
        "Resumed. The pending commits are pushed now, or by the next sweep."
        in browser.press(page, "Resume").text
    )
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")
    assert "resumed dev@127.0.0.1" in browser.open("/status/history").text
    assert "paused dev@127.0.0.1 the <b>host</b> moves" in browser.open("/status/history").text
    assert "'soon' is not a time" in browser.press(browser.open(), "Pause", lasts="soon").text
    assert browser.answer.status_code == 400


def test_every_reason_is_in_the_runbook(browser):
    ids = {attributes.get("id") for _, attributes in browser.open("/status/runbook").tags}
    assert set(POLICIES) <= ids


# --- The buttons ---


def test_push_now_goes_ahead_of_a_retry(browser, worker, env, remote, tmp_path):
    env["CFP_PUSH_BACKOFF_BASE"], env["CFP_PUSH_BACKOFF_CAP"] = "60", "60"
    remote.path.rename(tmp_path / "away.git")
    worker()
    commit = _write(browser)
    page = _shows(browser, "retrying")
    (tmp_path / "away.git").rename(remote.path)
    done = browser.press(page, "Push now", carrying={"remote": "origin"})
    assert "The push is queued." in done.text
    assert browser.answer.request.path == "/status"
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")


def test_two_remotes_are_pushed_together_or_one_by_one(env, worker, remote, tmp_path):
    mirror = Bare.init(tmp_path / "mirror.git")
    env["CFP_DATA_MIRRORS"] = f"mirror={mirror.path}"
    browser = Browser(create_app(env, open_access=True).test_client())
    queued = browser.client.application.extensions["ferry"].pipeline.celery
    sent = []
    queued.send_task = lambda name, args, kwargs, **_: sent.append((name, args[0], kwargs))
    page = browser.open()
    assert "mirror … queued" in page.text
    browser.press(page, "Push now", carrying={"remote": "mirror"})
    assert sent == [("push", "mirror", {"occasion": "operator"})]
    browser.press(page, "Push all now")
    assert [remote for _, remote, _ in sent[1:]] == ["origin", "mirror"]


def test_a_broker_that_is_away_is_said(env):
    env["CFP_REDIS_URL"] = "redis://127.0.0.1:1/0"
    browser = Browser(create_app(env, open_access=True).test_client())
    page = _shows(browser, "Broker ! does not answer")
    assert "The broker does not answer. 2 commits pending." in page.text
    assert "celery -A ferry.worker beat" not in page.text, "which is not what is away"
    assert "The broker did not accept the push." in browser.press(page, "Push now").text


@pytest.fixture
def diverged(browser, worker, remote, tmp_path):
    """
    Both sides with a commit of their own; returns ours and theirs.
    """

    def diverge(theirs_text='name = "Joe"\nslug = "joe"\n', slug="joe", **ours):
        running = worker()
        browser.press(browser.open(), "Push now")
        _shows(browser, "origin ✓ idle")
        clone = tmp_path / "clone"
        subprocess.run(["git", "clone", "-q", str(remote.path), str(clone)], check=True)
        git = Bare(clone).git
        (clone / "people" / f"{slug}.toml").write_text(theirs_text)
        git("add", ".")
        git("commit", "-qm", f"Edit {slug} by hand {HOSTILE}")
        git("push", "-q", "origin", "HEAD:main")
        commit = _write(browser, **ours)
        running.await_event("push.blocked")
        return commit, git("rev-parse", "HEAD")

    return diverge


def test_reconcile_shows_first_and_then_does_it(browser, diverged, remote):
    ours, theirs = diverged()
    page = _shows(browser, "origin ! blocked", "Rescue branch rescue/main-")
    planned = browser.press(page, "Reconcile: dry run")
    assert "Dry run: main and origin" in planned.text
    assert "✓ merged One merge commit would join both sides. This is a dry run" in planned.text
    assert "Only here: 1 commit" in planned.text
    assert "by Stranger <stranger@example.org>" in planned.text
    assert "<script>alert" not in browser.answer.text
    assert remote.head() == theirs
    done = browser.press(planned, "Reconcile now (merge)")
    assert "Reconciled: main and origin" in done.text
    assert "✓ merged One merge commit joined both sides." in done.text
    wait_until(lambda: remote.has(ours) and remote.has(theirs), what="both on the remote")
    _shows(browser, "origin ✓ idle")


def test_what_the_remote_got_meanwhile_is_shown_before_anything_is_done(browser, diverged, remote, data):
    diverged()
    planned = browser.press(browser.open(), "Reconcile: dry run")
    before = data.head()
    remote.commit("later")
    again = browser.press(planned, "Reconcile now (merge)")
    assert "The two sides have changed since the dry run. Nothing was done" in again.text
    assert data.head() == before
    assert "Reconciled:" in browser.press(again, "Reconcile now (merge)").text


def test_a_conflict_is_named_and_has_another_way_out(browser, diverged, remote):
    ours, _ = diverged(
        'email = "theirs@example.org"\nname = "Jane"\nslug = "jane"\n', slug="jane", email="ours@example.org"
    )
    planned = browser.press(browser.open(), "Reconcile: dry run")
    assert "! conflict Both sides changed the same thing." in planned.text
    assert 'email none "ours@example.org" "theirs@example.org" conflict' in planned.text
    assert "Reconcile now (merge)" not in [form.button for form in planned.forms]
    preserve = browser.press(planned, "Dry run: preserve")
    done = browser.press(preserve, "Reconcile now (preserve)")
    kept_as = re.search(r"conflicts/\w+", done.text)[0]
    assert remote.git("rev-parse", kept_as) == ours


def test_what_is_taken_of_a_conflict_is_shown_and_then_done(browser, diverged, remote, data):
    """
    It is not done where the value that was shown is no longer the one that would be taken.
    """
    diverged('email = "t@example.org"\nname = "Jane"\nslug = "jane"\n', slug="jane", email="o@example.org")
    planned = browser.press(browser.open(), "Reconcile: dry run")
    radios = [given for tag, given in planned.tags if given.get("type") == "radio"]
    assert {given["value"] for given in radios} == {
        f"people/jane.toml{field}={side}" for field in ("", ":email") for side in ("ours", "theirs")
    }
    [name] = {given["name"] for given in radios if given["value"] == "people/jane.toml:email=ours"}
    taken = browser.press(planned, "Dry run with these choices", **{str(name): "people/jane.toml:email=ours"})
    assert 'email none "o@example.org" "t@example.org" "o@example.org"' in taken.text
    _write(browser, email="later@example.org")
    again = browser.press(taken, "Reconcile now (merge)")
    assert "The two sides have changed since the dry run. Nothing was done" in again.text
    done = browser.press(again, "Reconcile now (merge)")
    assert "One merge commit joined both sides." in done.text
    assert 'email = "later@example.org"' in data.git("show", "main:people/jane.toml")


@pytest.fixture
def parted(browser, remote, data):
    """
    Both sides with other texts of files, although no worker runs.
    """

    def part(base, ours, theirs):
        data.edit(base)
        data.git("push", "--quiet", str(remote.path), "main:main")
        data.edit(ours)
        remote.edit(theirs)

    return part


def _reconcile(browser, *takes):
    """
    Return the dry run of a merge with *takes*.
    """
    form = browser.open().form("Reconcile: dry run")
    taken = {f"take-{number}": take for number, take in enumerate(takes)}
    browser.answer = browser.client.post(form.action, data={**form.fields, **taken})
    return Page(browser.answer.text)


JANE = "people/jane.toml"


@pytest.mark.parametrize(
    ("name", "many", "filling"),
    [("c:d", 0, ""), ("email", 11, ""), ("email", 0, "x" * 400)],
    ids=["a colon", "many files", "a long value"],
)
def test_a_value_that_was_not_shown_is_not_joined(browser, parted, data, monkeypatch, name, many, filling):
    monkeypatch.setattr("ferry.worker.repair.merger._COMPARED", 10)

    def files(value):
        text = f'"{name}" = "{filling}{value}{filling}"\nname = "Jane"\nslug = "jane"\n'
        return {JANE: text, **{f"aside/{number}": value for number in range(many)}}

    parted(files("base"), files("ours"), files("theirs"))
    takes = [f"{path}=ours" for path in files("")]
    takes[0] = f"{JANE}:{name}=ours"
    shown = _reconcile(browser, *takes)
    data.edit({JANE: files("later")[JANE]})
    before = data.head()
    again = browser.press(shown, "Reconcile now (merge)")
    assert "The two sides have changed since the dry run. Nothing was done" in again.text
    assert data.head() == before
    data.edit({"people/joe.toml": 'name = "Joe"\nslug = "joe"\n'})
    assert "One merge commit joined both sides." in browser.press(again, "Reconcile now (merge)").text
    assert f"{filling}later{filling}" in data.git("show", f"main:{JANE}")


def test_a_choice_is_offered_for_each_conflict_and_for_nothing_else(browser, parted):
    head = "[gitsheet]\nroot = 'notes'\npath = '${{ slug }}'\n"
    sheet = f"{head}[gitsheet.format]\ntype = 'markdown'\nbody = 'body'\n"

    def files(value):
        return {
            ".gitsheets/notes.toml": sheet,
            "README.md": value,
            "notes/n.md": f'+++\nslug = "n"\ntitle = "{value}"\n+++\n\n{value}\n',
            JANE: f'email = "{value}"\nheight = nan\nslug = "jane"\n',
        }

    parted(files("base"), files("ours"), files("theirs"))
    page = _reconcile(browser)
    radios = [given["value"] or "" for tag, given in page.tags if given.get("type") == "radio"]
    places = {radio.removesuffix("=ours") for radio in radios if radio.endswith("=ours")}
    fields = {"notes/n.md": ["title", "body"], JANE: ["email", "height"]}
    named = {f"{path}:{name}" for path, names in fields.items() for name in names}
    assert places == {"README.md", *fields, *named}
    for place in places:
        assert "nothing conflicts at" not in _reconcile(browser, f"{place}=ours").text
    assert "one merge commit" in _reconcile(browser, *(f"{place}=ours" for place in places)).text.lower()


def test_histories_that_share_nothing_are_said_to(browser, remote, data):
    data.git("push", "--quiet", str(remote.path), "main:main")
    orphan = remote.git("commit-tree", "-m", "a new beginning", "main^{tree}")
    remote.git("update-ref", "refs/heads/main", orphan)
    page = _reconcile(browser)
    assert "Both sides share no history. Nothing would be changed." in page.text
    assert not [form.button for form in page.forms if "preserve" in form.button]


def test_a_side_that_cannot_be_taken_is_a_conflict_of_the_request(browser, remote, data):
    data.git("push", "--quiet", str(remote.path), "main:main")
    assert "nothing conflicts at 'q'" in _reconcile(browser, "q=ours").text
    assert browser.answer.status_code == 409


def test_a_reconcile_that_cannot_be_done_says_why(browser, remote, tmp_path, data):
    remote.path.rename(tmp_path / "away.git")
    assert "fetch-failed" in browser.press(browser.open(), "Reconcile: dry run").text
    (tmp_path / "away.git").rename(remote.path)
    remotes = remotes_directory(data.path)
    ledger = browser.client.application.extensions["ferry"].pipeline.ledger
    settings = browser.client.application.extensions["ferry"].pipeline.reconciler
    settings._timeout_s = 0.2
    with ledger.claim("origin") as claim:
        assert claim
        page = browser.press(browser.open(), "Reconcile: dry run")
    assert browser.answer.status_code == 503
    assert "a push to origin has not ended" in page.text
    assert (remotes / "origin.lock").exists()


@pytest.mark.parametrize("field", ["remote", "strategy", "take"])
def test_a_form_with_made_up_values_does_nothing(browser, field):
    form = browser.open().form("Reconcile: dry run")
    answer = browser.client.post(form.action, data={**form.fields, field: "--force"})
    assert answer.status_code == (404 if field == "remote" else 400)


# --- Who gets in ---


def test_signing_in_and_out(guarded):
    form = guarded.open()
    assert guarded.answer.status_code == 401
    assert "origin" not in form.text
    assert guarded.open("/status/live").text == form.text
    page = guarded.press(form, "Sign in", token=TOKEN)
    assert "origin … queued" in page.text
    assert TOKEN not in guarded.answer.text
    assert "The push is queued." in guarded.press(page, "Push now").text
    for site in ("cross-site", "same-site"):
        fields = page.form("Push now").fields
        answer = guarded.client.post("/status/push", data=fields, headers={"Sec-Fetch-Site": site})
        assert (answer.status_code, answer.json["code"]) == (403, "form-expired")
    left = guarded.press(page, "Sign out")
    assert guarded.answer.status_code == 401
    assert "Sign in" in left.text
    assert guarded.client.post("/status/push", data=page.form("Push now").fields).status_code == 403


def test_a_wrong_token_is_refused(guarded):
    for token in ("", "wrong", TOKEN[:-1], f"{TOKEN} x", "ä\udcff".encode("utf-8", "surrogatepass")):
        page = guarded.press(guarded.open(), "Sign in", token=token)
        assert guarded.answer.status_code == 401
        assert "That is not the admin token." in page.text
    assert guarded.open().form("Sign in")


def test_a_bearer_token_works_as_well(guarded):
    header = {"Authorization": f"Bearer {TOKEN}"}
    page = guarded.open(headers=header)
    assert guarded.answer.status_code == 200
    form = page.form("Push now")
    assert guarded.client.post(form.action, data=form.fields, headers=header).status_code == 303
    assert guarded.client.post(form.action, data=form.fields).status_code == 401
    for wrong in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer"):
        assert guarded.client.get("/status", headers={"Authorization": wrong}).status_code == 401


def test_without_an_admin_token_it_is_closed(env):
    closed = create_app(env).test_client()
    for address in ("/status", "/status/live", "/status/runbook", "/status/events"):
        answer = closed.get(address)
        assert (answer.status_code, answer.json["code"]) == (503, "admin-closed")
    answer = closed.get("/status", headers={"Accept": "text/html"})
    assert answer.status_code == 503
    assert "Set CFP_ADMIN_TOKEN to enable them." in answer.text


def test_a_session_is_enough_for_the_event_stream(env):
    """
    A browser cannot send a bearer token there, where reading needs one.
    """
    browser = Browser(create_app({**env, "CFP_ADMIN_TOKEN": TOKEN, "CFP_API_READ": "token"}).test_client())
    form = browser.open()
    assert browser.client.get("/status/events").status_code == 401
    page = browser.press(form, "Sign in", token=TOKEN)
    assert [tag["data-events"] for _, tag in page.tags if "data-events" in tag] == ["/status/events"]
    assert browser.client.get("/api/events").status_code == 401
    answer = browser.client.get("/status/events")
    assert answer.content_type.startswith("text/event-stream")
    chunks = iter(answer.response)
    assert any("event: state" in next(chunks).decode() for _ in range(3))
    answer.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_cookie_is_for_this_page_alone(guarded, scheme):
    for headers in ({}, {"X-Forwarded-Proto": "https"}):
        answer = guarded.client.get("/status", base_url=f"{scheme}://localhost", headers=headers)
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert "Path=/status" in cookie
        assert f"Max-Age={LASTS_S}" in cookie
        assert ("Secure" in cookie) == (scheme == "https" or bool(headers))
        guarded.client.delete_cookie("ferry_status", path="/status")


@pytest.fixture
def signed(data):
    """
    What an API process with the admin token makes of a cookie.
    """
    return lambda cookie, token=TOKEN: Sessions(data.path / "ferry", token).read(cookie)


def test_signing_in_makes_a_new_session(guarded, signed):
    """
    Whoever planted a cookie beforehand is not signed in by it.
    """
    form = guarded.open()
    planted = guarded.client.get_cookie("ferry_status", path="/status").value
    guarded.press(form, "Sign in", token=TOKEN)
    own = guarded.client.get_cookie("ferry_status", path="/status").value
    assert signed(planted).name != signed(own).name
    assert not signed(planted).signed_in


def test_a_new_admin_token_signs_everybody_out(env, guarded, signed, monkeypatch):
    guarded.press(guarded.open(), "Sign in", token=TOKEN)
    cookie = guarded.client.get_cookie("ferry_status", path="/status").value
    assert signed(cookie).signed_in
    assert signed(cookie, "another") is None
    assert signed(cookie[:-2]) is None
    later = time.time() + LASTS_S + 60
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: later)
    assert signed(cookie) is None


def test_a_copy_of_the_cookie_is_signed_out_with_its_browser(env, guarded, signed):
    """
    In every process of the deployment.
    """
    guarded.press(guarded.open(), "Sign in", token=TOKEN)
    cookie = guarded.client.get_cookie("ferry_status", path="/status").value
    guarded.press(guarded.open(), "Sign out")
    assert signed(cookie) is None
    other = create_app({**env, "CFP_ADMIN_TOKEN": TOKEN}).test_client()
    other.set_cookie("ferry_status", cookie, path="/status")
    assert other.get("/status").status_code == 401


def test_a_cookie_says_nothing_of_the_admin_token(env, data, guarded, signed):
    """
    Its key is random, and one for all processes: who guesses the token has nothing to try the guess on.
    """
    guarded.open()
    cookie = guarded.client.get_cookie("ferry_status", path="/status").value
    key = data.path / "ferry" / "sessions.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert signed(cookie) is not None
    key.unlink()
    assert signed(cookie) is None
    key.write_bytes(b"")  # as a power cut may leave it
    assert signed(cookie) is None
    assert len(key.read_bytes()) == 32


def test_another_process_of_the_same_deployment_knows_the_session(env, guarded):
    guarded.press(guarded.open(), "Sign in", token=TOKEN)
    cookie = guarded.client.get_cookie("ferry_status", path="/status").value
    other = create_app({**env, "CFP_ADMIN_TOKEN": TOKEN}).test_client()
    other.set_cookie("ferry_status", cookie, path="/status")
    assert other.get("/status").status_code == 200


@pytest.mark.parametrize("address", ["push", "pause", "reconcile", "branches", "sign-in", "sign-out"])
@pytest.mark.parametrize("who", ["browser", "guarded"])
def test_every_form_needs_the_token_of_its_session(request, env, who, address):
    browser = request.getfixturevalue(who)
    browser.open()
    [stranger] = [
        form
        for form in Browser(browser.client.application.test_client()).open().forms
        if form.button in ("Push now", "Sign in")
    ]
    for token in (None, "", "x", stranger.fields["form_token"]):
        fields = {"remote": "origin", "token": TOKEN, **({} if token is None else {"form_token": token})}
        answer = browser.client.post(f"/status/{address}", data=fields)
        assert (answer.status_code, answer.json["code"]) == (403, "form-expired")


# --- What a page may do, and what it may not ---

ADDRESSES = [
    "/status",
    "/status/live",
    "/status/runbook",
    "/status/history",
    "/status/branches",
    "/status/assets/status.js",
]


@pytest.mark.parametrize("address", ADDRESSES[:-1])
def test_no_page_shows_anything_to_a_browser_that_is_not_signed_in(guarded, address):
    page = guarded.open(address)
    assert (guarded.answer.status_code, [form.button for form in page.forms]) == (401, ["Sign in"])


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("who", ["browser", "guarded"])
def test_the_headers_are_strict(request, who, address):
    browser = request.getfixturevalue(who)
    browser.open(address)
    headers = browser.answer.headers
    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    if not address.endswith(".js"):
        assert headers["Cache-Control"] == "no-store"


def test_nothing_is_inline_and_nothing_comes_from_elsewhere(browser, worker):
    worker()
    _write(browser)
    page = _shows(browser, "origin ✓ idle")
    for tag, attributes in page.tags:
        assert tag != "style"
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        if tag == "script":
            assert attributes["src"] == "/status/assets/status.js"
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "/").startswith(("/", "#"))
            assert not (attributes.get(name) or "").startswith("//")


def test_no_javascript_is_needed(browser, worker):
    """
    The page is whole as the server sends it, and loads itself anew.
    """
    worker()
    _write(browser)
    page = _shows(browser, "origin ✓ idle", "Lag of the oldest commit in each push", "brought")
    refresh = [attributes for tag, attributes in page.tags if tag == "meta" and "http-equiv" in attributes]
    assert [attributes["content"] for attributes in refresh] == ["15; url=/status"]
    inside = browser.answer.text.partition("<noscript>")[2].partition("</noscript>")[0]
    assert 'http-equiv="refresh"' in inside
    assert all(form.button for form in page.forms)


def test_a_hostile_commit_stays_text(browser, data):
    tree = data.git("rev-parse", "main^{tree}")
    commit = data.git(
        "-c", f"user.name={HOSTILE}", "commit-tree", "-p", "main", "-m", f"{HOSTILE}\n\nmore", tree
    )  # fmt: skip
    data.git("update-ref", "refs/heads/main", commit)
    page = browser.open()
    assert HOSTILE in page.text
    assert "<script>alert" not in browser.answer.text
    assert "<img" not in browser.answer.text


def test_nothing_secret_is_shown(env, worker, remote):
    env["CFP_DATA_REMOTE"] = "https://ana:hunter2@127.0.0.1:1/data.git"
    env["CFP_ADMIN_TOKEN"] = TOKEN
    browser = Browser(create_app(env, open_access=True).test_client())
    worker()
    _write(browser)
    _shows(browser, "Last error: network")
    for secret in ("hunter2", TOKEN, env["CFP_REDIS_URL"]):
        assert secret not in browser.answer.text


# --- When something is amiss ---


def test_a_redis_that_hangs_does_not_hang_the_page(env, own_valkey):
    env["CFP_REDIS_URL"] = f"redis://127.0.0.1:{own_valkey.port}/0"
    browser = Browser(create_app(env, open_access=True).test_client())
    os.kill(own_valkey.pid, signal.SIGSTOP)
    try:
        assert least(lambda: _takes(browser.open), below_s=2) < 2
        page = browser.open()
        assert "Worker ? unknown This needs the broker." in page.text
        assert least(lambda: _takes(lambda: browser.press(page, "Push now")), below_s=2) < 2
    finally:
        os.kill(own_valkey.pid, signal.SIGCONT)


def test_a_worker_of_another_repository_is_not_ours(env, worker, tmp_path, data):
    """
    They may share one broker.
    """
    other = Bare.copy(data.path, tmp_path / "other.git")
    worker()
    with contextlib.suppress(subprocess.CalledProcessError):
        other.git("config", "--unset", "ferry.id")
    app = create_app({**env, "CFP_DATA_REPO_PATH": str(other.path)}, open_access=True)
    _shows(Browser(app.test_client()), "Worker ! none answers")


def test_a_repository_that_cannot_be_read_is_said(browser, data):
    (data.path / "refs/heads/main").write_text("nonsense\n")
    page = browser.open()
    assert browser.answer.status_code == 503
    assert "The data repository cannot be read" in page.text


def test_damaged_files_beside_the_repository_leave_the_page_whole(browser, data):
    for name in ("origin.json", "origin.history"):
        (remotes_directory(data.path) / name).write_bytes(b"\xff{")
    assert "origin … queued" in browser.open().text
