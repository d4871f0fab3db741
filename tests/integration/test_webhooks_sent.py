"""
Webhooks that Ferry sends: signed, until a receiver takes them, and to no address that is private.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from standardwebhooks import Webhook

from ferry.extensions import posting
from ferry.extensions.posting import NotDelivered, is_public
from ferry.extensions.webhooks import Receiver, seconds
from ferry.worker.after.calling import registered_in
from ferry.worker.after.status import hook_statuses
from ferry.worker.after.turns import STOPPED
from ferry.worker.bootstrap import build
from ferry.worker.errors import HookFailed, NonFastForward, SettingsError
from ferry.worker.push import Request
from ferry.worker.settings import Settings
from tests.parts import wait_until

SECRET, NEW_SECRET = "whsec_" + "QUJD" * 8, "whsec_" + "eHl6" * 8


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((self.path, dict(self.headers), body))
        answers = self.server.answers
        status, *headers = answers.pop(0) if answers else (204,)
        if status is None:
            self.server.is_over.wait(30)  # a receiver that never answers
            return
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        """
        Say nothing.
        """


@contextmanager
def _serving(certificate=None):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.taken, server.answers, server.is_over = [], [], threading.Event()
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.is_over.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture
def receiver():
    with _serving() as server:
        yield server


@pytest.fixture
def sending(monkeypatch):
    monkeypatch.setenv("CFP_WEBHOOKS_SECRET", SECRET)
    monkeypatch.setenv("CFP_WEBHOOKS_PRIVATE", "on")
    return monkeypatch


@pytest.fixture
def after(env, receiver, tmp_path, monkeypatch):
    """
    What calls the webhooks' functions, with their one URL that has a secret in it.
    """
    monkeypatch.chdir(tmp_path)
    env |= {
        "CFP_WEBHOOKS": f"http://127.0.0.1:{receiver.server_port}/hooks/hunter2?a=b",
        "CFP_WEBHOOKS_SECRET": f"{NEW_SECRET} {SECRET}",
        "CFP_WEBHOOKS_PRIVATE": "on",
        "CFP_PUSH_BACKOFF_CAP": "600",
    }
    pipeline = build(env, publisher=True)
    pipeline.after.serve(registered_in(pipeline.settings, env).hooks)
    return pipeline.after


def test_a_commit_is_told_until_the_receiver_takes_it_under_one_id(after, receiver, data):
    commit, *_ = after.hooks
    assert [hook.event for hook in after.hooks] == ["commit", "push", "divergence"]
    data.edit({"people/jane.toml": 'slug = "jane"\nname = "Jane"\n'})
    receiver.answers[:] = [(503,)]
    with pytest.raises(HookFailed, match=r"127\.0\.0\.1 answered with status 503") as failed:
        after.call(commit)
    assert "hunter2" not in str(failed.value)
    assert "hunter2" not in after.entry(commit).last_failure.said
    wait_until(after.due)
    after.call(commit)

    (path, headers, body), (_, again, _) = receiver.taken
    assert path == "/hooks/hunter2?a=b"
    assert headers["webhook-id"] == again["webhook-id"]
    for secret in (SECRET, NEW_SECRET):
        Webhook(secret).verify(body, headers)
    message = json.loads(body)
    assert message["type"] == "commit"
    assert datetime.fromisoformat(message["timestamp"]).tzinfo
    told = message["data"]
    assert (told["hash"], told["author"], told["message"]) == (data.head(), "Sam", "edit")
    assert told["changes"] == [{"sheet": "people", "path": "jane", "operation": "create"}]
    assert told["changes_total"] == 1
    assert after.due() == []
    assert after.call_again(commit, data.head()).failed is None
    assert receiver.taken[2][1]["webhook-id"] == headers["webhook-id"]


def test_pushes_and_divergences_are_told(sending, receiver, town_of_two, data):
    told, first, second = town_of_two
    Receiver(f"http://127.0.0.1:{receiver.server_port}").push(told)

    path, headers, body = receiver.taken[0]
    assert path == "/"
    message = Webhook(SECRET).verify(body, headers)
    assert message["type"] == "push"
    assert message["data"] == {
        "remote": "origin", "branch": "main", "before": first, "after": second,
        "commits": [second], "commits_total": 1,
    }  # fmt: skip


@pytest.fixture
def town_of_two(data, env):
    first = data.head()
    data.git("update-ref", "refs/remotes/origin/main", data.commit("second"))
    pipeline = build(env, publisher=True)
    [(_, landing, _)] = pipeline.after.work.items("push", (first,))
    return landing, first, data.head()


def test_a_divergence_is_told_once_while_it_lasts(after, receiver, data, remote, env):
    *_, divergence = after.hooks
    data.git("push", "-q", str(remote.path), "main")
    ours, theirs = data.commit("ours"), remote.commit("theirs")
    with pytest.raises(NonFastForward):
        build(env, publisher=True).pusher.push(Request(remote="origin", chain="first"))

    assert after.is_due(divergence)
    after.call(divergence)
    [(_, headers, body)] = receiver.taken
    message = Webhook(SECRET).verify(body, headers)
    assert message["type"] == "divergence"
    assert datetime.fromisoformat(message["data"].pop("since")).tzinfo
    assert message["data"] == {"remote": "origin", "branch": "main", "head": ours, "remote_head": theirs}
    assert not after.is_due(divergence)


# --- A receiver that does not take a message ---


@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_that_a_receiver_asks_for_is_kept_within_the_cap(after, receiver, data, status):
    commit, *_ = after.hooks
    for asked, kept in ((120, 120), (10**6, 600)):
        data.commit()
        receiver.answers[:] = [(status, ("Retry-After", str(asked)))]
        with pytest.raises(HookFailed) as failed:
            after.call(commit)
        assert failed.value.retry_in_s == kept
        assert round(after.entry(commit).next_attempt_at - time.time()) in range(kept - 60, kept + 1)
        after.skip(commit)


def test_a_wait_is_seconds_or_a_date():
    now = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
    assert seconds("120", now) == 120
    assert seconds("Fri, 27 Nov 2026 12:01:30 GMT", now) == 90
    assert seconds("Fri, 27 Nov 2026 11:00:00 GMT", now) == 0
    for wrong in ("", "soon", "-5", "1e9", "9" * 20, "Fri, 99 Nov 2026 12:01:30 GMT"):
        assert seconds(wrong, now) is None


def test_a_receiver_that_is_gone_is_sent_nothing_more_until_an_operator_says_so(after, receiver, data, env):
    commit, push, _ = after.hooks
    data.commit("one")
    data.git("update-ref", "refs/remotes/origin/main", data.commit("two"))
    receiver.answers[:] = [(410,)]
    with pytest.raises(HookFailed, match="answered with status 410") as failed:
        after.call(commit)
    assert failed.value.retry_in_s is None
    assert "ferry hooks resume webhook-127-0-0-1-" in failed.value.hint

    assert (after.due(), after.call(commit), after.call(push)) == ([], STOPPED, STOPPED)
    states = [(each.state, each.need is not None) for each in hook_statuses(after, page_after_s=3600)]
    assert states == [("stopped", True), ("stopped", False), ("stopped", False)]
    assert len(receiver.taken) == 1

    assert after.resume(commit.extension) == [commit]
    assert after.resume(commit.extension) == []
    assert after.due() == [commit, push]
    after.call(commit)
    assert len(receiver.taken) == 3


def test_a_receiver_that_does_not_answer_is_a_failure_soon(sending, receiver):
    sending.setattr(posting, "_TIMEOUT_S", 0.2)
    receiver.answers[:] = [(None,)]
    with pytest.raises(NotDelivered, match=r"127\.0\.0\.1: TimeoutError: timed out") as failed:
        Receiver(f"http://127.0.0.1:{receiver.server_port}/x")._send("commit", "1", {})
    assert (failed.value.wait_s, failed.value.stops) == (None, False)


# --- Where to ---


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1::1", True),
        ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.1", False), ("224.0.0.1", False),
        ("255.255.255.255", False), ("240.0.0.1", False),
        ("::1", False), ("::", False), ("fe80::1%eth0", False), ("fc00::1", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:169.254.169.254", False), ("::ffff:93.184.216.34", True),
        ("64:ff9b::7f00:1", False), ("64:ff9b::a9fe:a9fe", False), ("2002:7f00:1::", False),
        ("::127.0.0.1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address, public):
    assert is_public(address) is public


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0"]
)
def test_no_message_goes_to_a_private_address(sending, host):
    sending.delenv("CFP_WEBHOOKS_PRIVATE")
    with pytest.raises(NotDelivered, match=r"not public|gaierror"):
        Receiver(f"https://{host}:1/x")._send("commit", "1", {})


def _resolving_to(monkeypatch, *addresses):
    asked, resolve = [], socket.getaddrinfo

    def getaddrinfo(host, port, *given, **options):
        if host in addresses:
            return resolve(host, port, *given, **options)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in addresses]

    monkeypatch.setattr(posting.socket, "getaddrinfo", getaddrinfo)
    return asked


def test_one_private_address_among_public_ones_is_enough_to_refuse(sending):
    sending.delenv("CFP_WEBHOOKS_PRIVATE")
    _resolving_to(sending, "93.184.216.34", "10.0.0.1")
    with pytest.raises(NotDelivered, match=r"hooks\.example has an address that is not public"):
        Receiver("https://hooks.example/x")._send("commit", "1", {})


def test_a_name_is_looked_up_once_and_the_address_that_was_checked_is_connected_to(sending):
    """
    A second look-up could be answered with another address.
    """
    sending.delenv("CFP_WEBHOOKS_PRIVATE")
    asked, connected = _resolving_to(sending, "93.184.216.34"), []

    def connect(end, timeout):
        connected.append(end)
        raise OSError("no route")

    sending.setattr(posting.socket, "create_connection", connect)
    with pytest.raises(NotDelivered, match=r"hooks\.example: OSError: no route"):
        Receiver("https://hooks.example/x")._send("commit", "1", {})
    assert asked == ["hooks.example"]
    assert connected == [("93.184.216.34", 443)]


def test_a_redirect_is_not_followed(sending, receiver):
    receiver.answers[:] = [(307,)]
    with pytest.raises(NotDelivered, match="answered with status 307"):
        Receiver(f"http://127.0.0.1:{receiver.server_port}/x")._send("commit", "1", {})
    assert len(receiver.taken) == 1


def test_a_receivers_certificate_must_be_that_of_its_name(sending, tmp_path):
    certificate = _certificate(tmp_path, "hooks.example")
    with _serving(certificate) as server:
        _resolving_to(sending, "127.0.0.1")
        url = f"https://hooks.example:{server.server_port}/x"
        with pytest.raises(NotDelivered, match="SSLCertVerificationError"):
            Receiver(url)._send("commit", "1", {})
        sending.setenv("SSL_CERT_FILE", str(certificate))
        Receiver(url)._send("commit", "1", {})
        with pytest.raises(NotDelivered, match="SSLCertVerificationError"):
            Receiver(url.replace("hooks.", "other."))._send("commit", "1", {})

    [(_, headers, _)] = server.taken
    assert headers["Host"] == f"hooks.example:{server.server_port}"


def _certificate(directory, name):
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


# --- Settings ---


def _settings(**env):
    return Settings.from_env({"CFP_DATA_REPO_PATH": "/data.git", "CFP_REDIS_URL": "redis://r", **env})


def test_a_url_turns_the_extension_on():
    assert _settings().extensions == ()
    found = _settings(CFP_WEBHOOKS="https://a.example/x https://b.example", CFP_WEBHOOKS_SECRET=SECRET)
    assert found.extensions == ("ferry.extensions.webhooks",)
    assert "a.example" not in repr(found)
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"CFP_WEBHOOKS": "https://a.example"}, "CFP_WEBHOOKS and CFP_WEBHOOKS_SECRET: set both, or none"),
        ({"CFP_WEBHOOKS": "ftp://hunter2/x"}, "CFP_WEBHOOKS: URL 1 is not https://HOST/PATH"),
        ({"CFP_WEBHOOKS": "https://me:hunter2@a.example"}, "CFP_WEBHOOKS: URL 1 is not https://HOST/PATH"),
        ({"CFP_WEBHOOKS": "https://a.example:0/hunter2"}, "CFP_WEBHOOKS: URL 1 is not https://HOST/PATH"),
        (
            {"CFP_WEBHOOKS": "http://a.example", "CFP_WEBHOOKS_SECRET": SECRET},
            "CFP_WEBHOOKS_PRIVATE=on alone",
        ),
        ({"CFP_WEBHOOKS_SECRET": "hunter2"}, "CFP_WEBHOOKS_SECRET: secret 1 is not whsec_ and the base64"),
        ({"CFP_WEBHOOKS_SECRET": "whsec_QUJD"}, "CFP_WEBHOOKS_SECRET: secret 1 is not whsec_ and the base64"),
    ],
)
def test_a_wrong_setting_is_named_and_not_repeated(env, said):
    with pytest.raises(SettingsError) as refused:
        _settings(**env)
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)
