"""
That no secret outlives a text that git, ssh or curl printed, and that everything else does.
"""

from __future__ import annotations

import re
import string
import time
import timeit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferry.worker.observe import redaction
from ferry.worker.observe.redaction import HIDDEN, redact, redact_all, redact_typed

SECRET = "s3cr3t-w0rd"
BASIC = "YW5hOnMzY3IzdC13MHJk"
GITHUB = "ghp_" + "aB3" * 12
GITHUB_FINE = "github_pat_" + "11ABCDEFG0" + "_" + "aB3" * 19
GITLAB = "glpat-" + "x_Y-z" * 4
BITBUCKET = "ATBB" + "aB3" * 10
ATLASSIAN = "ATCTT3xFfGN0" + "aB3" * 10 + "-_x" * 4 + "=8A1B2C3D"
ATLASSIAN_API = "ATATT3xFfGF0" + "aB3" * 10 + "-_x" * 4 + "=8A1B2C3D"
FERRY = "ferry_" + "x_Y-z" * 8 + "abc"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbmEifQ.c2lnbmF0dXJl-_x"
PEM = f"""-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
{SECRET}
-----END OPENSSH PRIVATE KEY-----
"""

# --- Secrets go ---


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        # What git says of a remote whose URL holds credentials.
        (f"fatal: unable to access 'https://ana:{SECRET}@host/data.git/': Could not resolve host", SECRET),
        (f"fatal: Authentication failed for 'https://ana:{SECRET}@host:8443/data.git/'", SECRET),
        (f"fatal: could not read Password for 'https://{SECRET}@host': terminal prompts disabled", SECRET),
        (f"remote: moved to https://ana:{SECRET}@host/new.git, please update", SECRET),
        (f"To https://{SECRET}:x-oauth-basic@host/data.git\n!\tmain:main\t[rejected]", SECRET),
        (f"error: HTTP://ANA:{SECRET}@HOST/ returned 502", SECRET),
        (f"https://ana:{SECRET}@host and http://ben:{SECRET}@other.example/x", SECRET),
        (f"https://:{SECRET}@host/data.git", SECRET),
        (f"https://ana:{SECRET}@[2001:db8::1]:8443/data.git", SECRET),
        (f"cannot open redis://:{SECRET}@redis.internal:6379/0, amqp://ana:{SECRET}@rabbit//", SECRET),
        (f"ssh://git:{SECRET}@host:22/data.git: not found", SECRET),
        (f"git+ssh://git:{SECRET}@host/data.git", SECRET),
        # A password that was not percent-encoded.
        (f"fatal: unable to access 'https://ana:p@rt-{SECRET}@host/data.git'", SECRET),
        (f"fatal: unable to access 'https://ana@town.example:{SECRET}@host/data.git'", SECRET),
        (f"https://ana:{SECRET}@and@more@host/data.git", "and@more"),
        (f"unable to access 'https://ana:it's-{SECRET}@host/'", SECRET),
        (f"https://ana:p@@{SECRET}@host/data.git", SECRET),
        # As git 2.39 leaves them: https://ana:p@@w0rd@host/ and https://ana:p/w0rd@host/.
        (f"unable to access 'https://@{SECRET}@host/': URL rejected", SECRET),
        (f"unable to access 'https://ana:p/{SECRET}@host/': URL rejected", SECRET),
        # Wherever it begins, and as long as some hosts make their tokens.
        (f"remote: \x1b[32mhttps://ana:{SECRET}@host/data.git\x1b[0m", SECRET),
        (f"URL_https://ana:{SECRET}@host/data.git", SECRET),
        (f"https://x:{'eyJhbGciOi' * 250}{SECRET}@host/data.git", SECRET),
        (f"https://{'eyJhbGciOi' * 250}{SECRET}@host/data.git", SECRET),
        # What GIT_TRACE and GIT_TRACE_CURL add.
        (f"trace: run_command: git remote-https origin https://ana:{SECRET}@host/data.git", SECRET),
        (f"trace: built-in: git -c 'http.extraHeader=AUTHORIZATION: basic {BASIC}' push", BASIC),
        (f"http.c:756 => Send header: Authorization: Basic {BASIC}", BASIC),
        (f"=> Send header: authorization: bearer {SECRET}", SECRET),
        (f"> Proxy-Authorization: Basic {BASIC}\r\n> Host: host", BASIC),
        (f"Authorization: token {SECRET}", SECRET),
        (f"Authorization:{SECRET}", SECRET),
        (f"=> Send header: Authorization: Negotiate {BASIC}", BASIC),
        (f"=> Send header: Authorization: NTLM {BASIC}", BASIC),
        (f"=> Send header: PRIVATE-TOKEN: {SECRET}", SECRET),
        (f"== Info: Server auth using Basic with user '{SECRET}'", SECRET),
        (f"HTTP_AUTHORIZATION: Basic {BASIC}", BASIC),
        (f"< Set-Cookie: session={SECRET}; HttpOnly", SECRET),
        (f"X-Schl\u00fcssel-To\u212aen: {SECRET}", SECRET),
        (f"proxy-author\u0131zation: Basic {BASIC}", BASIC),
        # Tokens in queries.
        (f"GET /api/v4/projects?private_token={SECRET}&page=2 404", SECRET),
        (f"https://host/data.git/info/refs?service=git-receive-pack&access_token={SECRET}", SECRET),
        (f"'https://host/hook?token={SECRET}'", SECRET),
        (f"https://host/?PASSWORD={SECRET}", SECRET),
        # The tokens of hosts, wherever they stand.
        (f"remote: the token {GITHUB} has expired", GITHUB[4:]),
        (f"remote: {GITHUB_FINE}: not allowed", GITHUB_FINE[11:]),
        (f"remote: PRIVATE-TOKEN: {GITLAB}", GITLAB[6:]),
        (f"password={BITBUCKET}", BITBUCKET[4:]),
        (f"gho_{'aB3' * 12} ghu_{'aB3' * 12} ghs_{'aB3' * 12} ghr_{'aB3' * 12}", "aB3"),
        (f"glcbt-64_{'aB3' * 8} gldt-{'aB3' * 8} glrt-{'aB3' * 8}", "aB3"),
        (f"remote: {ATLASSIAN}", ATLASSIAN[-20:]),
        (f"remote: {ATLASSIAN_API}", ATLASSIAN_API[5:]),
        (f"the token {FERRY} was refused", FERRY[6:]),
        ("cannot sign with AKIAIOSFODNN7EXAMPLE", "IOSFODNN7"),
        ("xoxb-123456789012-abcdefABCDEF", "123456789012"),
        (f"jwt {JWT}", JWT[10:]),
        # Keys, whole or cut off.
        (f"Load key: {PEM} invalid format", SECRET),
        (PEM.partition("-----END")[0], SECRET),
        (PEM.replace("OPENSSH ", ""), SECRET),
        (PEM.replace("OPENSSH", "RSA").replace("\n", "\r\n"), SECRET),
        (f"{PEM}\nthe next\n{PEM}", SECRET),
    ],
)
def test_a_secret_is_hidden(text: str, secret: str):
    assert secret in text

    hidden = redact(text)

    assert secret not in hidden
    assert HIDDEN in hidden


# RFC 3986: what may stand in a URL before the "@", without quotes, which end a URL in git's texts.
_USERINFO = string.ascii_letters + string.digits + "-._~!$&()*+,;=:%"
_users = st.text(_USERINFO, max_size=20)
# Some people do not encode the "@" in theirs.
_passwords = st.lists(st.text(_USERINFO, min_size=1, max_size=20), min_size=1, max_size=3).map("@".join)


@given(st.sampled_from(["https", "http", "redis", "amqps", "ftp"]), _users, _passwords)
def test_no_password_in_a_url_survives(scheme: str, user: str, password: str):
    """
    And the host and the path do, without which nobody could tell which remote it was.
    """
    text = f"fatal: unable to access '{scheme}://{user}:{password}@host.example/town/data.git/': no route"
    assert redact(text) == f"fatal: unable to access '{scheme}://***@host.example/town/data.git/': no route"


@given(_passwords)
def test_no_password_in_an_ssh_url_survives_and_the_account_does(password: str):
    text = f"ssh://git:{password}@host.example:2222/data.git"
    assert redact(text) == "ssh://git:***@host.example:2222/data.git"


@given(_users.filter(bool))
def test_no_token_that_stands_as_the_user_survives(token: str):
    assert redact(f"'https://{token}@host.example/data.git'") == "'https://***@host.example/data.git'"


_PIECES = [
    "https",
    "ssh",
    "://",
    "@",
    ":",
    "/",
    " ",
    "'",
    "\n",
    "?token=",
    "authorization:",
    "basic",
    "a" * 16,
    HIDDEN,
]


@given(st.lists(st.sampled_from([*_PIECES, "glpat-", *PEM.splitlines()])).map("".join))
def test_what_was_redacted_once_is_left_as_it_is(text: str):
    """
    Texts pass through here more than once on their way to a log or a page.
    """
    assert redact(redact(text)) == redact(text)


def test_what_stands_around_a_secret_stays():
    text = f"before {GITHUB} between https://{SECRET}@host/x after\n{PEM}the end"
    assert redact(text) == "before *** between https://***@host/x after\n***\nthe end"


def test_what_is_no_text_is_looked_through():
    """
    For what goes to a log or a page whole. Numbers and names stay, and what is neither becomes text.
    """
    value = {
        "url": [f"https://{SECRET}@host", 7, None, True],
        "deep": ({"x": ValueError(f"?token={SECRET}")},),
    }
    assert redact_all(value) == {"url": ["https://***@host", 7, None, True], "deep": [{"x": "?token=***"}]}


# --- The rest stays ---


@pytest.mark.parametrize(
    "text",
    [
        "",
        "To git@github.com:org/repo.git",
        "ssh://git@host.example:2222/org/repo.git",
        "ssh://git@host/x",
        "git+ssh://git@host/x",
        "https://host.example/org/repo.git",
        "https://host.example:8443/@scope/repo.git",
        "https://host.example/mail?to=ana@town.example",
        "/srv/git/data@2.git",
        "file:///srv/git/data@2.git",
        "ana@town.example wrote to ben@town.example",
        "Author: Ana <ana@town.example>",
        "see https://host.example/help (or ask ana@town.example)",
        "!\t9f1c2ab4d0:refs/heads/main\t[rejected] (fetch first)",
        "a612c2b5480b7859cee3c177fca34a635853d6a2..8803acee91a467632a8dfc32c7e8d4f4177d1c92",
        "sha256:" + "0123456789abcdef" * 4,
        "SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDPzIUDrQIQHWHJSBg",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ana@town",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "the authorization failed: no token was given, and no password either",
        "ana@host's password: Permission denied, please try again.",
        "error: the Bearer token is missing",
        "WWW-Authenticate: Bearer realm=\"host\"",
        "the key=value pairs, the token and the password: both are missing",
        "token=abc", # no query: nobody's
        "/srv/ferry_data/token/password.toml, people/token=ana.toml, xoxo and eyJ",
        "?page=2&monkey=banana&keys=3",
        "ghp_ is what GitHub's tokens begin with, glpat- GitLab's",
        "remote: Resolving deltas: 100% (3/3), completed with 2 local objects.",
        "fatal: unable to access 'https://host.example/data.git/': The requested URL returned error: 403",
        "2026-11-23T12:27:00.631413Z @{u} HEAD@{1} main@origin",
    ],
)  # fmt: skip
def test_harmless_text_is_left_as_it_is(text: str):
    assert redact(text) == text


@given(
    st.lists(st.sampled_from([*"abz09 .", "xox", "glpat", "password", "bearer ", "token ", "ghp"])).map(
        "".join
    )
)
def test_what_is_passed_on_without_a_search_holds_nothing_that_a_search_finds(text: str):
    assert redaction._HARMLESS.fullmatch(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redaction, "_HARMLESS", re.compile(r"(?!)"))
        assert redact(text) == text


@pytest.mark.parametrize(
    ("words", "pattern", "hidden"), redaction._SEARCHES, ids=[words[0] for words, _, _ in redaction._SEARCHES]
)
@settings(max_examples=20)
@given(data=st.data())
def test_what_a_search_changes_has_one_of_its_words(words, pattern, hidden, data):
    text = data.draw(st.from_regex(pattern))
    assert pattern.sub(hidden, text) == text or any(word in text.lower() for word in words)


@given(
    st.text(string.ascii_letters + string.digits + " .:/@-_\n", max_size=200).filter(lambda t: "://" not in t)
)
def test_without_a_url_nothing_is_taken_for_one(text: str):
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"token={SECRET} is wrong", SECRET),
        (f"deploy --password={SECRET}", SECRET),
        (f"CI_JOB_TOKEN={SECRET}", SECRET),
        (f"api_key = '{SECRET}'", SECRET),
        (f"the password: {SECRET}", SECRET),
        ("Password: swordfish", "swordfish"),
        (f"curl -H 'X: Bearer {SECRET}'", SECRET),
    ],
)
def test_what_a_person_calls_a_secret_is_one(text: str, secret: str):
    assert secret not in redact_typed(text)
    assert redact(text) == text, "git's own words may be a file's name"


# --- And quickly ---


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "a.",
        "glpat-",
        "https://a:",
        "://",
        "@a",
        "x-y-",
        "-----BEGIN ",
        "eyJ",
        "eyJ-",
        "eyJaaaaaaaa.",
        "token=",
        "token ",
        "password:",
        "Bearer ",
        "ferry_",
        "xoxb-",
    ],
)
def test_a_long_line_costs_no_time(piece: str):
    """
    A hook may print whatever it likes, and the worker reads all of it while it holds the claim.
    """
    line = piece * (12_000 // len(piece))
    # The least of some, in the processor's time: nothing else that runs here counts.
    assert min(timeit.repeat(lambda: redact(line), timer=time.process_time, number=1, repeat=5)) < 0.1
