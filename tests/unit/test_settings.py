"""
What the environment may say, and what is said where it is wrong.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ferry.worker.errors import SettingsError
from ferry.worker.settings import Settings

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "settings.md"
REQUIRED = {"CFP_DATA_REPO_PATH": "/srv/data.git", "CFP_REDIS_URL": "redis://localhost"}
SECRET = "hunter2"
DIGEST = "0123456789abcdefABCDEF" + 42 * "0"

VARIABLES = [spec.metadata["variable"] for spec in fields(Settings)]
WHATEVER_IS_TEXT = {spec.metadata["variable"] for spec in fields(Settings) if spec.metadata["parse"] is str}


def _read(**env: str) -> Settings:
    return Settings.from_env({**REQUIRED, **env})


def _problems(**env: str) -> list[str]:
    """
    Return what is said of REQUIRED with *env* on top, one text for each problem.
    """
    with pytest.raises(SettingsError) as refused:
        _read(**env)
    return str(refused.value).split("; CFP_")


# --- What is read ---


def test_the_documented_defaults_are_what_an_empty_environment_gives():
    """
    Setting a variable to its default, as the reference states it, changes nothing.
    """
    rows = re.findall(r"^\| \[`(\w+)`\].*\| `([^`|]+)` \|$", REFERENCE.read_text(), re.MULTILINE)
    stated = {name: default for name, default in rows if default not in VARIABLES}

    assert "CFP_DATA_BRANCH" in stated, "the table of the reference has changed its form"
    assert _read(**stated) == _read()


def test_without_a_remote_there_are_no_remotes():
    assert _read().remotes == {}


def test_origin_comes_before_the_mirrors():
    settings = _read(CFP_DATA_MIRRORS="backup=/b office=/o", CFP_DATA_REMOTE="/origin")

    assert list(settings.remotes.items()) == [("origin", "/origin"), ("backup", "/b"), ("office", "/o")]


def test_mirrors_work_without_an_origin():
    assert dict(_read(CFP_DATA_MIRRORS="backup=/b").remotes) == {"backup": "/b"}


def test_a_mirrors_url_may_hold_equals_signs():
    url = "https://host/data.git?a=b&c=d"
    assert _read(CFP_DATA_MIRRORS=f"backup={url}").remotes["backup"] == url


@pytest.mark.parametrize("variable", sorted(set(VARIABLES) - set(REQUIRED)))
def test_an_empty_variable_counts_as_unset(variable: str):
    assert _read(**{variable: ""}) == _read()


def test_variables_of_other_programs_are_left_alone():
    assert _read(HOME="/root", CFPUSH="1", cfp_data_branch="-", GIT_DIR="/elsewhere") == _read()


def test_a_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/ferry")
    assert _read(CFP_DATA_REPO_PATH="~/data.git").data_repo_path == Path("/home/ferry/data.git")


def test_tokens_may_be_separated_by_blanks_commas_or_lines():
    """
    A digest is compared in lower case, in whichever it was given.
    """
    settings = _read(CFP_API_TOKENS=f" ana:{DIGEST},ben:{DIGEST}\n  cem:{DIGEST}, dia:{DIGEST} ")

    assert list(settings.api_tokens) == ["ana", "ben", "cem", "dia"]
    assert {token.digest for token in settings.api_tokens.values()} == {DIGEST.lower()}


def test_a_token_may_be_for_certain_sheets():
    tokens = _read(CFP_API_TOKENS=f"ana:{DIGEST},ben:{DIGEST}:people+places").api_tokens
    assert tokens["ana"].sheets is None
    assert tokens["ben"].sheets == {"people", "places"}
    with pytest.raises(SettingsError, match="pair 1"):
        _read(CFP_API_TOKENS=f"ana:{DIGEST}:")


@pytest.mark.parametrize(
    ("scopes", "writes", "reads"),
    [
        ("", None, None),
        (":people", {"people"}, None),
        (":*", None, None),
        (":people:*", {"people"}, None),
        (":people:places+events", {"people"}, {"places", "events"}),
        ("::places", set(), {"places"}),
        ("::*", set(), None),
        (":*:places", None, {"places"}),
    ],
)
def test_a_token_says_what_it_may_write_and_read(scopes, writes, reads):
    token = _read(CFP_API_TOKENS=f"ana:{DIGEST}{scopes}").api_tokens["ana"]
    assert (token.sheets, token.reads) == (writes, reads)


@pytest.mark.parametrize("scopes", [":", ":+", ":a+", "::", ":a:", ":a:b+", ":a:b:c", "::+"])
def test_a_scope_that_names_nothing_is_refused(scopes):
    [problem] = _problems(CFP_API_TOKENS=f"ana:{DIGEST}{scopes}")
    assert problem.startswith("CFP_API_TOKENS: pair 1")


def test_an_admin_token_that_can_be_guessed_is_refused():
    [problem] = _problems(CFP_ADMIN_TOKEN="x" * 15)
    assert problem.startswith("CFP_ADMIN_TOKEN: must have at least 16 characters")
    assert _read(CFP_ADMIN_TOKEN="x" * 16).admin_token == "x" * 16


@pytest.mark.parametrize(("text", "wanted"), [("1", 1), ("64k", 65536), ("1MiB", 1 << 20), ("2 GB", 2 << 30)])
def test_sizes_have_units(text: str, wanted: int):
    assert _read(CFP_API_MAX_BODY=text).api_max_body_bytes == wanted


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("CFP_API_MAX_BODY", "0"),
        ("CFP_API_MAX_BODY", "1TB"),
        ("CFP_API_RATE_LIMIT", "fast"),
        ("CFP_API_HOST", "a b"),
        ("CFP_API_CORS_ORIGINS", "https://a.example/path"),
        ("CFP_API_READ", "closed"),
        ("CFP_DATA_PUSH_MODE", "later"),
        ("CFP_DATA_RECONCILE", "always"),
        *(("CFP_DATA_ROOT", root) for root in ("..", "a/../b", ".git", "a/.GIT/b", ".gitsheets", "a\nb")),
    ],
)
def test_what_the_api_is_told_is_checked(variable: str, text: str):
    with pytest.raises(SettingsError, match=variable):
        _read(**{variable: text})


@given(st.floats(min_value=1e-9, max_value=1e6))
def test_seconds_are_any_positive_number(seconds: float):
    assert _read(CFP_PUSH_TIMEOUT=repr(seconds)).push_timeout_s == seconds


def test_the_longest_wait_covers_what_may_be_waited_for():
    """
    The broker must not take a message for lost that only waits; a host may ask for an hour.
    """
    assert _read(CFP_PUSH_BACKOFF_CAP="7200").push_longest_wait_s >= 7200
    assert _read(CFP_PUSH_MIN_INTERVAL="9000").push_longest_wait_s >= 9000
    assert _read(CFP_PUSH_BACKOFF_CAP="60").push_longest_wait_s >= 3600


# --- What is refused ---


def test_every_wrong_variable_is_reported_at_once():
    """
    A deployment is fixed in one round trip rather than in as many as it has mistakes.
    """
    wrong = {name: "-\0" for name in VARIABLES if name not in WHATEVER_IS_TEXT} | {"CFP_NONSENSE": "1"}

    with pytest.raises(SettingsError) as refused:
        Settings.from_env(wrong)

    assert {name: str(refused.value).count(f"{name}: ") for name in wrong} == dict.fromkeys(wrong, 1)


def test_what_is_required_and_missing_is_named():
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({"CFP_REDIS_URL": ""})

    assert "CFP_DATA_REPO_PATH: required" in str(refused.value)
    assert "CFP_REDIS_URL: required" in str(refused.value)


@pytest.mark.parametrize("variable", [name for name in VARIABLES if name.startswith("CFP_")])
def test_a_misspelt_name_is_refused_with_the_nearest_one(variable: str):
    """
    It would otherwise be a default that nobody chose.
    """
    (problem,) = _problems(**{variable[:-1]: "1"})
    assert problem == f"{variable[:-1]}: unknown setting; did you mean {variable}?"


def test_a_name_near_none_is_refused_without_a_guess():
    assert _problems(CFP_QQQ="1") == ["CFP_QQQ: unknown setting"]


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "-1", "-0.001", "1e999", "one", "1,5", "1 s", " "])
@pytest.mark.parametrize(
    "variable",
    [
        "CFP_PUSH_BACKOFF_BASE",
        "CFP_PUSH_BACKOFF_CAP",
        "CFP_PUSH_TIMEOUT",
        "CFP_PUSH_SWEEP_INTERVAL",
        "CFP_DATA_FOLLOW_INTERVAL",
        "CFP_PUSH_MIN_INTERVAL",
        "CFP_PUSH_PAGE_AFTER",
        "CFP_PUSH_MAX_RETRIES",
    ],
)
def test_a_number_that_makes_no_sense_is_refused(variable: str, text: str):
    assert _problems(**{variable: text})[0].startswith(f"{variable}: must be")


@pytest.mark.parametrize("text", ["0", "0.0", "-0"])
def test_no_time_at_all_is_allowed_only_where_it_means_something(text: str):
    """
    Zero seconds between pushes, or before a page, but never for a push or a sweep.
    """
    settings = _read(CFP_PUSH_MIN_INTERVAL=text, CFP_PUSH_PAGE_AFTER=text, CFP_DATA_FOLLOW_INTERVAL=text)
    assert (settings.push_min_interval_s, settings.push_page_after_s) == (0, 0)
    assert settings.data_follow_interval_s == 0

    for name in ("BACKOFF_BASE", "BACKOFF_CAP", "TIMEOUT", "SWEEP_INTERVAL"):
        assert f"CFP_PUSH_{name}: must be a positive" in _problems(**{f"CFP_PUSH_{name}": text})[0]


@pytest.mark.parametrize("text", ["1.5", "1e3", "+1", "0x10", "٣", "1_000"])
def test_a_count_is_written_in_plain_digits(text: str):
    assert "must be a whole number" in _problems(CFP_PUSH_MAX_RETRIES=text)[0]


def test_no_retry_at_all_is_not_the_same_as_no_limit():
    assert _read(CFP_PUSH_MAX_RETRIES="0").push_max_retries == 0
    assert _read().push_max_retries is None


def test_a_first_wait_above_the_longest_is_refused():
    assert "above CFP_PUSH_BACKOFF_CAP" in _problems(CFP_PUSH_BACKOFF_BASE="9", CFP_PUSH_BACKOFF_CAP="8")[0]
    assert "above CFP_PUSH_BACKOFF_CAP" in _problems(CFP_PUSH_BACKOFF_BASE="7200")[0]
    assert _read(CFP_PUSH_BACKOFF_BASE="8", CFP_PUSH_BACKOFF_CAP="8").push_backoff_base_s == 8


def test_a_timeout_longer_than_the_kernel_can_wait_is_refused():
    """
    poll(2) takes milliseconds in 31 bits; anything longer would fail each push instead of the start.
    """
    _problems(CFP_PUSH_TIMEOUT="2147484")


@pytest.mark.parametrize("variable", ["CFP_DATA_REPO_PATH", "CFP_SSH_KEY_PATH", "CFP_SSH_KNOWN_HOSTS"])
@pytest.mark.parametrize(
    "text",
    [
        "data.git",
        "./data.git",
        " /data.git",
        "~nobody-of-that-name/data.git",
    ],
)
def test_a_path_that_depends_on_where_one_stands_is_refused(variable: str, text: str):
    (problem,) = _problems(**{variable: text})
    assert problem.startswith(f"{variable}: ")


@pytest.mark.parametrize(
    "text", ["-oProxyCommand=id", "--upload-pack=id", "/a\n/b", "/a\rb", "/a\0b", " ", "https://[bad/x"]
)
def test_a_remote_that_git_would_not_take_for_one_is_refused(text: str):
    assert _problems(CFP_DATA_REMOTE=text) == ["CFP_DATA_REMOTE: is not a git URL or a path"]


@pytest.mark.parametrize(
    "text",
    ["backup", "backup=", "=/b", "-b=/b", "a/b=/b", "origin=/b", "b=/1 b=/2", "b=-oX", f"{'b' * 64}=/"],
)
def test_mirrors_are_refused_whole_where_one_is_wrong(text: str):
    assert _problems(CFP_DATA_MIRRORS=f"good=/good {text}")[0].startswith("CFP_DATA_MIRRORS: ")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("CFP_REDIS_URL", "localhost:6379"),
        ("CFP_REDIS_URL", "amqp://localhost"),
        ("CFP_REDIS_URL", "//localhost"),
        ("CFP_BROKER_URL", "http://localhost"),
        ("CFP_BROKER_URL", "sentinel://localhost:26379"),
        ("SENTRY_DSN", "sentry.example.org/7"),
    ],
)
def test_a_url_of_another_kind_is_refused(variable: str, text: str):
    assert _problems(**{variable: text})[0].startswith(f"{variable}: ")


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "rediss://h",
        "redis+socket:///s",
        "amqp://h//",
        "amqps://h",
        "sentinel://h:26379#mymaster",
    ],
)
def test_the_brokers_that_celery_and_ferry_know_are_taken(url: str):
    assert _read(CFP_BROKER_URL=url).broker_url == url


# --- Branches, as git has it ---

# What the rules of git check-ref-format are about, and some of what they are not.
PIECES = [
    "..",
    "@{",
    ".lock",
    "lock",
    "b.c",
    "main",
    "refs/heads/",
    "\t",
    "\n",
    "\x7f",
    "\u2028",
    *"aé./@-{}~^:?*[]\\ ",
]


def _git_allows(branch: str) -> bool:
    checked = ["git", "check-ref-format", "--branch", branch]
    return subprocess.run(checked, cwd="/", capture_output=True, check=False).returncode == 0


def _we_allow(branch: str) -> bool:
    try:
        return _read(CFP_DATA_BRANCH=branch).ref == f"refs/heads/{branch}"
    except SettingsError:
        return False


@given(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5)
)
def test_a_branch_is_allowed_exactly_where_git_allows_it(branch: str):
    assume(branch != "@")
    assert _we_allow(branch) == _git_allows(branch)


@pytest.mark.parametrize("name", ["@", "HEAD"])
def test_what_git_reads_as_the_current_commit_is_no_branch(name: str):
    """
    ``git branch`` makes neither, although ``check-ref-format`` has nothing against the first.
    """
    assert not _we_allow(name)


@given(st.lists(st.sampled_from(["a", ".", "..", "-", "lock", ".lock"]), min_size=1, max_size=4).map("".join))
def test_a_mirrors_name_is_one_that_git_allows(name: str):
    """
    A name that git refuses in a refspec would end every git command on the repository, origin's too.
    """
    try:
        _read(CFP_DATA_MIRRORS=f"{name}=/backup")
    except SettingsError:
        return
    checked = subprocess.run(["git", "check-ref-format", f"refs/remotes/{name}/main"], check=False)
    assert checked.returncode == 0, name


# --- Secrets ---


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("CFP_API_TOKENS", SECRET),
        ("CFP_API_TOKENS", f"ana:{SECRET}"),
        ("CFP_API_TOKENS", f"{SECRET}:{DIGEST[:-1]}"),
        ("CFP_API_TOKENS", f"ana:{DIGEST} {SECRET}"),
        ("CFP_DATA_REMOTE", f"https://ana:{SECRET}@host/data.git\n"),
        ("CFP_DATA_REMOTE", f"-c{SECRET}"),
        ("CFP_DATA_MIRRORS", f"origin=https://ana:{SECRET}@host/"),
        ("CFP_DATA_MIRRORS", f"b=https://ana:{SECRET}@host/ b=https://ana:{SECRET}@host/"),
        ("CFP_DATA_MIRRORS", f"=https://ana:{SECRET}@host/"),
        ("CFP_DATA_MIRRORS", f"b=-https://ana:{SECRET}@host/"),
        ("CFP_DATA_MIRRORS", f"https://ana:{SECRET}@host/"),
        ("CFP_DATA_MIRRORS", f"https://{SECRET}@host/?a=b"),
        ("CFP_DATA_MIRRORS", f"b=https://ana:my {SECRET}@host/"),
        ("CFP_REDIS_URL", f"http://:{SECRET}@host"),
        ("CFP_REDIS_URL", f"redis://:{SECRET}@[host"),
        ("CFP_REDIS_URL", f"redis://:{SECRET}\u2100@host"),
        ("CFP_BROKER_URL", f"sentinel://:{SECRET}@host:26379"),
        ("CFP_BROKER_URL", f"https://ana:{SECRET}@host"),
        ("SENTRY_DSN", f"{SECRET}@sentry.example.org/7"),
        ("SENTRY_DSN", f"https://{SECRET}\u2100@host/7"),
    ],
)
def test_a_refusal_repeats_no_secret(variable: str, text: str):
    """
    A start's last line is read by more people than its environment.
    """
    (problem,) = _problems(**{variable: text})
    assert problem.startswith(variable)
    assert SECRET not in problem


def test_settings_may_be_printed():
    settings = _read(
        CFP_DATA_REMOTE=f"https://ana:{SECRET}@host/data.git",
        CFP_DATA_MIRRORS=f"backup=https://{SECRET}@host/data.git",
        CFP_REDIS_URL=f"redis://:{SECRET}@host",
        CFP_BROKER_URL=f"amqp://ana:{SECRET}@host",
        CFP_API_TOKENS=f"ana:{DIGEST}",
        CFP_ADMIN_TOKEN=f"admin-{SECRET}-token",
        SENTRY_DSN=f"https://{SECRET}@host/7",
    )

    for text in (repr(settings), f"{settings}", f"{[settings]}"):
        assert SECRET not in text
        assert DIGEST.lower() not in text.lower()


@pytest.mark.parametrize(
    ("given", "root"),
    [("data", "data"), ("/data/in/", "data/in"), ("./a//b/.", "a/b"), (".", "."), ("/", "."), ("ä b", "ä b")],
)
def test_the_root_is_a_directory_in_the_tree(given: str, root: str):
    assert _read(CFP_DATA_ROOT=given).data_root == root


@pytest.mark.parametrize("text", ["https://records.town.example", "http://127.0.0.1:8000/ferry/"])
def test_a_public_url_makes_links(text: str):
    link = _read(CFP_API_PUBLIC_URL=text).link("/status/runbook#auth")
    assert link == f"{text.rstrip('/')}/status/runbook#auth"
    assert _read().link("/status") is None


@pytest.mark.parametrize(
    "text",
    [
        "records.town.example",
        "ftp://town.example",
        "https://ana:hunter2@town.example",
        "https://a?b",
        "https://[",
    ],
)
def test_a_public_url_that_links_to_nothing_is_refused(text: str):
    [problem] = _problems(CFP_API_PUBLIC_URL=text)
    assert problem.startswith("CFP_API_PUBLIC_URL: must be where people reach the API")
    assert "hunter2" not in problem
