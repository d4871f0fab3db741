"""
Removing passwords, tokens and keys from git's output and other texts.

git hides ``user:password`` in the URLs that it prints, but not a token in place of the user name, nor secrets
that ``GIT_TRACE`` or a server repeats. Output is redacted as soon as it is read
(``ferry.worker.process.running``), before it is logged, stored or raised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

HIDDEN = "***"

# Every repetition has a bound, so that the time for a long line is not quadratic. NUL separates fields.
_WORD = re.compile(r"[^\s\0]+")
_PORT = re.compile(r"[0-9]{1,5}")
_HEADER = re.compile(
    r"(?P<name>(?:(?:proxy-)?authorization|(?:set-)?cookie|(?:private|job|deploy|x-[\w-]{1,30})-(?:token|key)):)"
    r"[^\r\n\0]*",
    re.IGNORECASE,
)
_QUERY = re.compile(
    r"(?P<name>[?&](?:access_token|private_token|token|password|api_key|key)=)[^&\s'\"\0]+", re.IGNORECASE
)
_NAMED = re.compile(
    r"(?P<name>(?<![a-z0-9/])(?:(?:access_|private_)?token|password|passwd|api_key) ?= ?['\"]?)[^&\s'\"\0]+",
    re.IGNORECASE,
)
# If another word follows, it is a sentence: "password: permission denied".
_PROSE = r"(?![A-Za-z]{1,20},? [A-Za-z])"
_PASSWORD = re.compile(
    rf"(?P<name>\b(?:password|passwd|passphrase): {{0,2}}['\"]?){_PROSE}[^\s'\"\0]+", re.IGNORECASE
)
_BEARER = re.compile(rf"(?P<name>\bBearer )(?!(?:tokens?|auth\w{{0,20}}|realm)\b){_PROSE}[^\s'\"\0]+")
_CURL_USER = re.compile(r"(?P<name>\bauth using \w{1,20} with user )'[^\r\n\0]*'")
# The formats that hosts document for their tokens, for secret scanners: GitHub (ghp_
# gho_ ghu_ ghs_ ghr_ github_pat_), GitLab (glpat- gldt- glrt- glcbt-), Atlassian (ATBB ATCTT ATATT), Ferry,
# AWS (AKIA) and Slack (xox). eyJ begins a JSON Web Token.
_TOKEN = re.compile(
    r"\b(?:gh[pousr]_\w{16,}|github_pat_\w{16,}|gl(?:pat|dt|rt|cbt)-[\w.-]{16,}|AT(?:BB|CTT|ATT)[\w=-]{16,}"
    r"|ferry_[\w-]{40,}|AKIA[A-Z0-9]{16}\b|xox[abprs]-[\w-]{10,}"
    r"|(?<!-)eyJ[\w-]{8,}\.[\w-]{2,}\.[\w-]*)"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^\0]*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|(?=\0)|\Z)"
)


# Each pattern above needs a character that is none of these. Most values of a log line are such words.
_HARMLESS = re.compile(r"[a-z0-9 .]*")


def redact(text: str) -> str:
    """
    Return *text* with everything that looks like a secret replaced by ``***``.
    """
    if _HARMLESS.fullmatch(text):
        return text
    lowered = text.lower()
    for words, pattern, hidden in _SEARCHES:
        if any(word in lowered for word in words):
            text = pattern.sub(hidden, text)
    return text


def redact_typed(text: str) -> str:
    """
    Redact a text that a person typed, including each value that follows a name such as token or password.

    ``redact`` leaves such values in git's output, where they may be the name of a file or a commit's message.
    """
    for named in (_NAMED, _PASSWORD, _BEARER):
        text = named.sub(rf"\g<name>{HIDDEN}", text)
    return redact(text)


def redact_all(value: Any) -> Any:
    """
    Return *value* with every text in it redacted, at any depth; values that JSON lacks become text first.
    """
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {key: redact_all(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact_all(item) for item in value]
    return redact(str(value))


def _redact_urls(word: re.Match[str]) -> str:
    if "://" not in word[0] or "@" not in word[0]:
        return word[0]
    before, *addresses = word[0].split("://")
    redacted = [before]
    for address in addresses:
        redacted.append(_redact_user(address, is_ssh=redacted[-1].lower().endswith("ssh")))
    return "://".join(redacted)


def _redact_user(address: str, *, is_ssh: bool) -> str:
    """
    Hide the user and password in *address*, the part of a URL after ``://``.
    """
    authority, _, _ = address.partition("/")
    name, colon, rest = authority.partition(":")
    at = authority.rfind("@")
    if at < 0 and colon and not _PORT.fullmatch(rest):
        at = address.rfind("@")  # a password that contains an unescaped slash
    if at < 0:
        return address
    # The user in an ssh URL is an account such as "git", not a secret; in any other URL it may be a token.
    shown = name.partition("@")[0] + (f":{HIDDEN}" if colon and len(name) < at else "") if is_ssh else HIDDEN
    return f"{shown}{address[at:]}"


# Each pattern with what replaces a match. Before it, words: every match has one of them, in any case. To look
# for them takes a fiftieth of a search, and most of git's output has none. The words for a pattern that
# ignores case have no i, k or s, which Unicode writes in another way, too.
_SEARCHES: tuple[tuple[Sequence[str], re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (["-----begin "], _PRIVATE_KEY, HIDDEN),
    (["://"], _WORD, _redact_urls),
    (["author", "coo", "-to", "ey:"], _HEADER, rf"\g<name> {HIDDEN}"),
    (["auth using "], _CURL_USER, rf"\g<name>'{HIDDEN}'"),
    (["="], _QUERY, rf"\g<name>{HIDDEN}"),
    (
        [
            *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "gldt-", "glrt-", "glcbt-"),
            *("atbb", "atctt", "atatt", "ferry_", "akia", "xox", "eyj"),
        ],
        _TOKEN,
        HIDDEN,
    ),
)
