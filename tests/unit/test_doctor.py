"""
What `ferry doctor` looks at before ssh and Sentry are needed.
"""

from __future__ import annotations

import contextlib
import pwd
import shutil
import socket
from types import SimpleNamespace

import pytest
import sentry_sdk

from ferry.worker import doctor, paging
from ferry.worker.bootstrap import build
from ferry.worker.failures import POLICIES
from ferry.worker.git.credentials import Credentials
from ferry.worker.settings import Settings
from tests.fake_broker import fake_broker


@contextlib.contextmanager
def _full():
    """
    A port that drops what comes, as a firewall does: the kernel's queue for it is full.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as stack:
        for _ in range(3):
            knocking = stack.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(server.getsockname())
        yield server.getsockname()[1]


@contextlib.contextmanager
def _silent():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def _refusing():
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def _probe(data, dsn, wanted=None):
    env = {"CFP_DATA_REPO_PATH": str(data.path), "CFP_REDIS_URL": "redis://127.0.0.1:1", "SENTRY_DSN": dsn}
    try:
        return paging.probe(Settings.from_env(env), wanted)
    finally:
        sentry_sdk.init()


@pytest.mark.parametrize("place", [_full, _silent, _refusing])
def test_a_sentry_that_never_answers_took_nothing(place, data, monkeypatch):
    monkeypatch.setattr(paging, "_PROBE_S", 0.3)
    with place() as port:
        assert _probe(data, f"http://key@127.0.0.1:{port}/1")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((403, {}), "status 403"),
        ((429, {"Retry-After": "60"}), "status 429"),
        ((302, {"Location": "/login"}), "status 302"),
        ((200, {"Content-Type": "text/html; charset=utf-8"}), "with a web page"),
        ((200, {"Content-Type": "application/json"}), None),
    ],
)
def test_only_what_was_acknowledged_was_taken(answer, said, data, sentry):
    sentry.answer = lambda: answer
    problem = _probe(data, sentry.dsn)
    assert (said in problem) if said else problem is None


@pytest.mark.parametrize(
    ("url", "program"),
    [
        ("git@host.example:town/data.git", "ssh"),
        ("ssh://git@host.example/town/data.git", "ssh"),
        ("git+ssh://host.example/data.git", "ssh"),
        ("https://host.example:8443/data.git", None),
        ("git://host.example/data.git", None),
        ("/srv/data.git", None),
        ("/srv/a:b/data.git", None),
        ("file:///srv/data.git", None),
    ],
)
def test_remotes_that_need_ssh_are_known(url, program):
    assert Credentials(remotes={"origin": url}).ssh_program("origin") == program


@pytest.mark.parametrize(
    ("environ", "configured", "program"),
    [
        ({"GIT_SSH_COMMAND": "'/opt/my ssh' -4"}, "other", "/opt/my ssh"),
        ({"GIT_SSH": "/opt/my ssh"}, "", "/opt/my ssh"),
        ({}, "plink -x", "plink"),
        ({"GIT_SSH": "/opt/my ssh"}, "plink -x", "plink"),
    ],
)
def test_the_program_is_the_one_that_git_starts(environ, configured, program):
    credentials = Credentials(remotes={"origin": "git@host.example:data.git"}, environ=environ)
    assert credentials.ssh_program("origin", configured) == program


def _ssh_findings(programs):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(doctor, "ssh_programs", lambda repository: programs)
        return {each.name: each for each in doctor._ssh(SimpleNamespace(repository=None))}


def test_an_ssh_that_is_not_there_is_named_with_its_remotes(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = _ssh_findings({"ssh": ["origin", "backup"]})["ssh"]
    assert found.state == "failed"
    assert "origin, backup" in found.detail
    assert "apt install openssh-client" in found.remedy
    assert _ssh_findings({}) == {}


def test_a_user_id_without_a_name_is_said_to_stop_ssh(monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    found = _ssh_findings({"ssh": ["origin"]})["user"]
    assert found.state == "failed"
    assert "No user exists for uid" in found.detail
    assert _ssh_findings({}) == {}


def test_an_unknown_host_key_names_the_setting_that_knows_it():
    assert "CFP_SSH_KNOWN_HOSTS" in POLICIES["host-key"].hint


def test_a_broker_that_answers_and_has_no_worker_is_told_from_one_that_has(env, patient, monkeypatch):
    monkeypatch.setattr(doctor, "_PING_TIMEOUT_S", 0.1)
    pipeline = build(env, publisher=True)
    assert doctor._broker(pipeline).state == "ok"
    workers = doctor._workers(pipeline)
    assert (workers.state, workers.detail) == ("failed", "none answers")
    assert "celery -A ferry.worker worker" in workers.remedy


@pytest.fixture
def again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let the second look at a broker follow the first without kombu's second in between.
    """
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda seconds: None)


@pytest.mark.usefixtures("again_at_once")
def test_a_broker_that_is_away_is_named_with_the_setting_that_leads_to_it(env):
    with fake_broker() as broker:
        pipeline = build({**env, "CFP_REDIS_URL": broker.url}, publisher=True)
    finding = doctor._broker(pipeline)
    assert finding.state == "failed"
    assert "refused" in finding.detail
    assert "CFP_REDIS_URL" in finding.remedy
    assert "cannot be asked" in doctor._workers(pipeline).detail


@pytest.mark.usefixtures("again_at_once")
def test_a_broker_that_hangs_does_not_hang_the_doctor(env, broker):
    """
    Its socket's time limit holds, twice: one connection is tried again.
    """
    pipeline = build(env, publisher=True)
    with broker.hung():
        assert doctor._broker(pipeline).state == "failed"


@pytest.mark.usefixtures("again_at_once")
def test_a_password_in_the_brokers_address_is_not_repeated(env):
    with fake_broker() as broker:
        url = broker.url.replace("//", "//:hunter2@")
    finding = doctor._broker(build({**env, "CFP_REDIS_URL": url}, publisher=True))
    assert finding.state == "failed"
    assert "hunter2" not in finding.detail


@pytest.mark.parametrize("cap_s", ["60", "86400"])
def test_a_retry_ends_well_before_redis_delivers_it_again(env, cap_s):
    """
    The transport is told to keep a message twice as long as the longest wait.
    """
    pipeline = build({**env, "CFP_PUSH_BACKOFF_CAP": cap_s}, publisher=True)
    finding = doctor._countdowns(pipeline)
    assert finding.state == "ok"
    options = pipeline.celery.conf.broker_transport_options
    assert options["visibility_timeout"] == 2 * pipeline.settings.push_longest_wait_s
    pipeline.celery.conf.broker_transport_options = {**options, "visibility_timeout": 1.0}
    assert doctor._countdowns(pipeline).state == "failed"


@pytest.mark.parametrize(
    ("is_failing", "detail"), [(False, "would accept a push"), (True, "cannot tell whether its hooks accept")]
)
def test_a_dry_run_promises_no_push_where_pushes_fail(deployment, is_failing, detail):
    """
    It asks no hook of the remote's.
    """
    found = doctor._asked(deployment, "origin", is_failing=is_failing)
    assert found.state == "ok"
    assert detail in found.detail
