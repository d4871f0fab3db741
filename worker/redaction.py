"""
Keeping passwords, tokens and keys out of every text that leaves git's hands.

git hides ``user:password`` in the URLs that it prints, but not a token that
stands as the user name, nor what ``GIT_TRACE`` or a server's own words repeat.
Each text is redacted where it is read (``worker.git``), before anything logs,
stores or raises it.
"""

from __future__ import annotations

import re

HIDDEN = "***"

# The user of an ssh URL is an account such as "git", not a secret; anywhere
# else what stands before the "@" may be a token.
_URL_USER = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<user>[^\s/@'\"]+(?:@[^\s/@'\"]+)*)@", re.IGNORECASE
)
_HEADER = re.compile(
    r"(?P<name>(?:proxy-)?authorization:\s*(?:basic|bearer|token|digest)?\s*)[^\s'\"]+", re.IGNORECASE
)
_QUERY = re.compile(
    r"(?P<name>[?&](?:access_token|private_token|token|password|api_key|key)=)[^&\s'\"]+", re.IGNORECASE
)
# The shapes that hosts document for their own tokens, so that secret scanners can find them:
# GitHub (ghp_ gho_ ghu_ ghs_ ghr_ github_pat_), GitLab (glpat- gldt- glrt- glcbt-), Bitbucket (ATBB ATCTT).
_TOKEN = re.compile(
    r"\b(?:gh[pousr]_\w{16,}|github_pat_\w{16,}|gl(?:pat|dt|rt|cbt)-[\w.-]{16,}|AT(?:BB|CTT)\w{16,})"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)


def redact(text: str) -> str:
    """
    Return *text* with whatever looks like a secret replaced by ``***``.
    """
    text = _PRIVATE_KEY.sub(HIDDEN, text)
    text = _URL_USER.sub(_redact_url_user, text)
    text = _HEADER.sub(rf"\g<name>{HIDDEN}", text)
    text = _QUERY.sub(rf"\g<name>{HIDDEN}", text)
    return _TOKEN.sub(HIDDEN, text)


def _redact_url_user(match: re.Match[str]) -> str:
    scheme, user = match["scheme"], match["user"]
    if "ssh" in scheme.lower():
        account, password, _ = user.partition(":")
        return f"{scheme}://{account}{password and ':' + HIDDEN}@"
    return f"{scheme}://{HIDDEN}@"
