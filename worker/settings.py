"""
The settings from the environment, typed and checked once at the start.

Every ``CFP_*`` variable of Ferry is a field of ``Settings``, including those of the API, because the
processes share one environment. An unknown name is an error: a misspelt variable would otherwise silently
leave the default in force.
"""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from ferry.worker.errors import SettingsError

PREFIX = "CFP_"
ORIGIN = "origin"

_NO_BROKER = "redis://127.0.0.1:1/0"
_LONGEST_S = 20 * 24 * 3600.0  # poll(2) counts milliseconds in 31 bits, which is 24 days

_REMOTE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_TOKEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# https://git-scm.com/docs/git-check-ref-format, rules 1 to 10 but for a lone "@".
_BAD_BRANCH = re.compile(r"^[-/.]|//|/\.|\.\.|@\{|[\x00-\x20\x7f~^:?*\[\\]|\.lock(/|$)|[/.]$|^(@|HEAD)?$")


def absolute_path(text: str) -> Path:
    """
    Return the path that *text* names.

    Raises:
        ValueError: It is not absolute.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # `~NAME` of an unknown user
        path = Path(text)
    if not path.is_absolute():
        raise ValueError(f"must be an absolute path, got {text!r}")
    return path


def _branch(text: str) -> str:
    if _BAD_BRANCH.search(text):
        raise ValueError(f"{text!r} is not a valid name for a git branch")
    return text


def _tree_directory(text: str) -> str:
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if (
        any(part == ".." or part.lower() in (".git", ".gitsheets") for part in parts)
        or not text.isprintable()
    ):
        raise ValueError(f"must be a directory in the tree, such as data/public, got {text!r}")
    return "/".join(parts) or "."


def _person(text: str) -> tuple[str, str]:
    found = re.fullmatch(r"([^<>\r\n\0]*[^<>\s\0]) <([^<>@\s\0]+@[^<>@\s\0]+)>", text.strip())
    if not found or not text.isprintable():
        raise ValueError(f"must be such as 'Ferry <ferry@town.example>', got {text!r}")
    return found[1], found[2]


def _remote_url(text: str) -> str:
    is_whole = "://" not in text or _scheme(text)  # an unclosed bracket in the host
    if not (text.strip() and is_whole) or text.startswith("-") or any(c in text for c in "\r\n\0"):
        raise ValueError("is not a git URL or a path")
    return text


def _mirrors(text: str) -> Mapping[str, str]:
    mirrors: dict[str, str] = {}
    for number, pair in enumerate(text.split(), 1):
        name, equals, url = pair.partition("=")
        if not equals or not _REMOTE_NAME.fullmatch(name) or _BAD_BRANCH.search(name):
            # Do not repeat the text: it may contain a password.
            raise ValueError(
                f"pair {number} is not name=url; pairs are separated by spaces, "
                "and a name is letters, digits, dots and dashes, and may not end in .lock"
            )
        if name == ORIGIN or name in mirrors:
            raise ValueError(f"the remote {name!r} is named twice ({ORIGIN} is CFP_DATA_REMOTE)")
        mirrors[name] = _remote_url(url)
    return mirrors


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""  # urllib's message about a bad URL repeats the URL


def address(url: str | None) -> str:
    """
    Return *url* without user, password and parameters, such as ``host/town/data``.
    """
    return re.sub(r"^(?:[a-z+]+://)?(?:[^@/]*@)?|(?:\.git)?/?(?:[?#].*)?$", "", url or "")


def _url_of(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if _scheme(text) not in schemes:
            raise ValueError(f"must be a URL that begins with one of {', '.join(s + '://' for s in schemes)}")
        return text

    return parse


def _public_url(text: str) -> str:
    # Without user and password, because pages show it.
    if not _scheme(text) or not re.fullmatch(r"https?://[^\s/?#@]+(?:/[^\s?#@]*)?", text):
        raise ValueError("must be where people reach the API, such as https://records.town.example")
    return text.rstrip("/")


def _broker_url(text: str) -> str:
    _url_of("redis", "rediss", "redis+socket", "sentinel", "amqp", "amqps")(text)
    if text.startswith("sentinel:") and not urlsplit(text).fragment:
        raise ValueError("a Sentinel URL ends with #NAME, the name of its master")
    return text


def _seconds(text: str) -> float:
    value = _number(text)
    if not 0 < value <= _LONGEST_S:
        raise ValueError(f"must be a positive number of seconds, at most 20 days, got {text!r}")
    return value


def _seconds_or_zero(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= _LONGEST_S:
        raise ValueError(f"must be a number of seconds, from 0 to 20 days, got {text!r}")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise ValueError(f"must be a number from 0 to 1, got {text!r}")
    return value


def _slug(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,49}", text):
        raise ValueError(f"must be up to 50 lower-case letters, digits, '-' and '_', got {text!r}")
    return text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"must be a number, got {text!r}") from None


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"must be a whole number, 0 or more, got {text!r}")
    return int(text)


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}, got {text!r}")
        return text

    return parse


def _switch(text: str) -> bool:
    return _one_of("on", "off")(text) == "on"


@dataclass(frozen=True, slots=True)
class Token:
    """
    The rights of one token.

    Attributes:
        digest: SHA-256 of the token, hexadecimal.
        sheets: The only sheets that it may write; None: all.
        reads: The only sheets that it may read, beside those that it may write; None: all.
    """

    digest: str
    sheets: frozenset[str] | None = None
    reads: frozenset[str] | None = None

    def may_read(self, sheet: str | None) -> bool:
        """
        Whether it may read *sheet*; None: what concerns all sheets.
        """
        if self.reads is None or self.sheets is None:
            return True
        return sheet is not None and sheet in self.reads | self.sheets


_TOKEN = re.compile(r"([^:]+):([0-9a-fA-F]{64})(?::([^:]*)(?::([^:]*))?)?")


def parse_tokens(text: str) -> Mapping[str, Token]:
    """
    Read ``name:sha256-hex[:WRITES[:READS]]``, separated by blanks or commas.

    WRITES and READS are sheets joined by ``+``, or ``*`` for all; without them, all. WRITES may be empty if
    READS is given: such a token reads and does not write.

    Raises:
        ValueError: A pair has another form.
    """
    tokens: dict[str, Token] = {}
    for number, pair in enumerate(re.split(r"[\s,]+", text.strip()), 1):
        found = _TOKEN.fullmatch(pair)
        name, digest, writes, reads = found.groups() if found else ("", "", None, None)
        is_writer = writes is None or _is_scope(writes) or (writes == "" and reads is not None)
        if not _TOKEN_NAME.fullmatch(name) or not is_writer or not (reads is None or _is_scope(reads)):
            # Do not repeat the text: it may be the token itself.
            raise ValueError(
                f"pair {number} is not name:sha256-hex (64 hexadecimal digits), or that with "
                ":SHEETS that it may write, or :SHEETS:SHEETS that it may write and read (people+places; *)"
            )
        if name in tokens:
            raise ValueError(f"the name {name!r} is given twice")
        tokens[name] = Token(digest.lower(), _scope(writes), _scope(reads))
    return tokens


def _is_scope(text: str) -> bool:
    return text == "*" or all(text.split("+"))


def _scope(text: str | None) -> frozenset[str] | None:
    return None if text in (None, "*") else frozenset(filter(None, str(text).split("+")))


def _admin_token(text: str) -> str:
    if len(text) < _ADMIN_TOKEN_CHARACTERS:
        raise ValueError(
            f"must have at least {_ADMIN_TOKEN_CHARACTERS} characters; make one with: openssl rand -hex 32"
        )
    return text


def _secrets(text: str) -> tuple[str, ...]:
    secrets = tuple(filter(None, re.split(r"[\s,]+", text)))
    is_readable = all(map(str.isprintable, secrets))
    if not (secrets and is_readable) or (
        len(secrets) > 1 and min(map(len, secrets)) < _ADMIN_TOKEN_CHARACTERS
    ):
        # Otherwise each word of a secret that contains blanks would be a secret.
        raise ValueError(
            "must be a secret, or several, separated by blanks or commas, each with at least "
            f"{_ADMIN_TOKEN_CHARACTERS} characters; make one with: openssl rand -hex 32"
        )
    return secrets


def _bytes(text: str) -> int:
    parsed = re.fullmatch(r"([0-9]{1,12})\s*([kMG]i?B?)?", text)
    if not parsed or not int(parsed[1]):
        raise ValueError(f"must be a number of bytes such as 1048576 or 1MiB, got {text!r}")
    unit = {"k": 10, "M": 20, "G": 30}.get((parsed[2] or " ")[0], 0)
    return int(parsed[1]) << unit


_ADMIN_TOKEN_CHARACTERS = 16

_RATE = re.compile(r"[1-9][0-9]{0,6}(?: ?(?:per|/) ?)(?:[1-9][0-9]{0,3} )?(?:second|minute|hour|day)s?")


def _rate(text: str) -> str:
    if not _RATE.fullmatch(text):
        raise ValueError(f"must be such as '600 per minute', got {text!r}")
    return text


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", text):
        raise ValueError(f"must be a host's name, got {text!r}")
    return text.lower()


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(text.split())
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?", origin):
            raise ValueError(f"{origin!r} is not an origin such as https://www.example.org (without a path)")
    return origins


def _modules(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, re.split(r"[\s,]+", text)))
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{name!r} is not the name of a Python module, such as town.rules")
    return tuple(dict.fromkeys(names))


def _contradictions(values: Mapping[str, Any]) -> Iterator[str]:
    """
    Return the settings that do not fit each other.
    """
    base, cap = values.get("push_backoff_base_s", 1.0), values.get("push_backoff_cap_s", 3600.0)
    if base > cap:
        yield f"CFP_PUSH_BACKOFF_BASE: {base:g} s is above CFP_PUSH_BACKOFF_CAP, {cap:g} s"
    if "https_token_path" in values and _scheme(values.get("data_remote", "")) not in ("http", "https"):
        yield "CFP_HTTPS_TOKEN_PATH: has no effect, as CFP_DATA_REMOTE is not an https:// URL"
    if values.get("api_role") == "replica" and "data_remote" not in values:
        yield "CFP_API_ROLE: a replica follows CFP_DATA_REMOTE, which is not set"
    if ("api_oidc_issuer" in values) != ("api_oidc_audience" in values):
        yield "CFP_API_OIDC_ISSUER and CFP_API_OIDC_AUDIENCE: set both, or none"
    if ("webhooks" in values) != ("webhooks_secrets" in values):
        yield "CFP_WEBHOOKS and CFP_WEBHOOKS_SECRET: set both, or none"
    is_plain = any(_scheme(url) == "http" for url in values.get("webhooks", ()))
    if is_plain and not values.get("webhooks_private"):
        yield "CFP_WEBHOOKS: http:// is allowed with CFP_WEBHOOKS_PRIVATE=on alone"


def _webhooks(text: str) -> tuple[str, ...]:
    urls = tuple(dict.fromkeys(text.split()))
    for number, url in enumerate(urls, 1):
        # Do not repeat the URL: a part of it may be a secret.
        if not re.fullmatch(r"https?://(?![^/?]*@)[!-~]+", url) or not _has_host_and_port(url):
            raise ValueError(f"URL {number} is not https://HOST/PATH; URLs are separated by blanks")
    return urls


def _has_host_and_port(url: str) -> bool:
    try:
        found = urlsplit(url)
        return bool(found.hostname) and found.port != 0
    except ValueError:
        return False


def _webhook_secrets(text: str) -> tuple[str, ...]:
    secrets = tuple(text.split())
    for number, secret in enumerate(secrets, 1):
        prefix, _, key = secret.partition("whsec_")
        try:
            size = len(base64.b64decode(key, validate=True)) if not prefix else 0
        except ValueError:
            size = 0
        if not 24 <= size <= 64:
            raise ValueError(
                f"secret {number} is not whsec_ and the base64 of 24 to 64 bytes; "
                'make one with: echo "whsec_$(openssl rand -base64 32)"'
            )
    return secrets


def _issuer(text: str) -> str:
    found = urlsplit(text)
    is_here = found.scheme == "http" and found.hostname in ("127.0.0.1", "::1", "localhost")
    if not (found.scheme == "https" or is_here) or not found.hostname or found.query or found.fragment:
        raise ValueError(f"must be an https:// URL without query and fragment, got {text!r}")
    return text


def _from_env(
    variable: str,
    parse: Callable[[str], Any],
    default: Any = None,
    *,
    factory: Callable[[], Any] | None = None,
    secret: bool = False,
    common: bool = False,
) -> Any:
    """
    Declare a setting.

    Args:
        secret: Whether its value is left out of the settings' own text.
        common: Whether all repositories that one worker serves have the same value.
    """
    metadata = {"variable": variable, "parse": parse, "common": common}
    if factory:
        return field(default_factory=factory, repr=not secret, metadata=metadata)
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    The settings of one data repository, its remotes, and its processes.

    Attributes:
        data_repo_path: The bare data repository that the API commits to.
        data_repositories: Directory with the environments of several, for a worker that serves them all.
        data_remote: git URL of ``origin``; None keeps commits local.
        data_branch: The one branch that is written and pushed.
        data_root: Directory in the tree with ``.gitsheets`` and the sheets; ``.`` is the top.
        data_expressions: Whether sheets may be used whose declarations hold code.
        data_mirrors: Further remotes, name to URL.
        data_committer: Name and address of the committer; None: each commit's author.
        data_signing_key_path: Private ssh key that signs every commit; None: none is signed.
        data_reconcile: When Ferry reconciles the branch with origin's by itself: ``manual`` never, ``boot``
            at a start, ``auto`` also after a divergence.
        data_follow_interval_s: Seconds between two looks at origin for commits of others; 0: only after a
            nudge.
        redis_url: Redis or Valkey: the broker, unless broker_url names another.
        broker_url: Another Celery broker.
        push_backoff_base_s: Seconds before the first retry, doubling from there.
        push_backoff_cap_s: Longest wait between two retries, in seconds.
        push_max_retries: Retries before Ferry stops retrying; None: no limit.
        push_timeout_s: Seconds one ``git push`` may take before it is ended.
        push_sweep_interval_s: Seconds between two sweeps.
        push_min_interval_s: Least seconds between the starts of two pushes to one remote.
        push_express: Whether a push may take the express lane.
        push_rescue: Whether a divergence puts the local head on a new branch of the remote.
        push_page_after_s: Seconds of transient failure before a page.
        data_push_mode: ``async``, or ``sync``: a write answers when its commit is on every remote.
        api_role: ``primary``, or ``replica``: reads only, and follows origin.
        api_primary_url: URL that a replica redirects writes to; None: it refuses them.
        api_tokens: The clients' tokens, by name.
        api_tokens_path: A file with more of them, read again when it changes.
        api_trusted_proxies: Number of proxies in front of the API that append to X-Forwarded-For.
        api_read: ``open``, or ``token``: reads need a token too.
        api_host: Host in the authors' pseudonymous addresses, ``NAME@users.noreply.HOST``.
        api_public_url: The API's public URL, for links; None: not known.
        api_rate_limit: Requests that one client may make, such as ``600 per minute``; None: any number.
        api_max_body_bytes: Largest body of a request that carries records.
        api_max_attachment_bytes: Largest attachment.
        api_cors_origins: Origins whose pages may call the API; ``*`` is any.
        api_extensions: Python modules that hold extensions, in the order in which their rules run.
        api_oidc_issuer: OpenID Connect issuer whose tokens are let in; None: none are.
        api_oidc_audience: Audiences, one of which such a token must name, separated by blanks.
        api_oidc_name_claim: The claim that holds the caller's name.
        api_oidc_scope_claim: The claim that holds the caller's scopes.
        api_hook_timeout_s: Seconds that one function of an extension may take after a commit or a push.
        webhooks: URLs that are told of commits and pushes.
        webhooks_secrets: What signs those messages.
        webhooks_private: Whether they may go to private addresses, and by http.
        admin_token: Bearer token of the operators' endpoints; None closes them.
        data_reload_secrets: Secrets that sign the requests of the reload webhook, or are their bearer token;
            none closes it.
        ssh_key_path: Private key for the remotes, if GIT_SSH_COMMAND is unset.
        ssh_known_hosts: File with the host keys of the remotes.
        https_token_path: File with the token for ``origin``'s HTTP host, read at each push.
        sentry_dsn: DSN for pages and errors; None turns Sentry off.
        sentry_environment: Sentry's name for this deployment.
        sentry_traces_sample_rate: Share of requests and pushes whose timing is sent to Sentry.
        sentry_auth_token: Token of Sentry's API, which resolves the issues of an episode that has ended.
        sentry_org: Slug of the organization at Sentry, for ``sentry_auth_token``.
        sentry_cron_monitor: Slug of the Sentry monitor that every sweep checks in with.
    """

    data_repo_path: Path = _from_env("CFP_DATA_REPO_PATH", absolute_path)
    data_repositories: Path | None = _from_env("CFP_DATA_REPOSITORIES", absolute_path)
    data_remote: str | None = _from_env("CFP_DATA_REMOTE", _remote_url, secret=True)
    data_branch: str = _from_env("CFP_DATA_BRANCH", _branch, "main")
    data_root: str = _from_env("CFP_DATA_ROOT", _tree_directory, ".")
    data_expressions: bool = _from_env("CFP_DATA_EXPRESSIONS", _switch, True)
    data_mirrors: Mapping[str, str] = _from_env("CFP_DATA_MIRRORS", _mirrors, factory=dict, secret=True)
    data_reconcile: str = _from_env("CFP_DATA_RECONCILE", _one_of("manual", "boot", "auto"), "manual")
    data_follow_interval_s: float = _from_env("CFP_DATA_FOLLOW_INTERVAL", _seconds_or_zero, 60.0)
    data_committer: tuple[str, str] | None = _from_env("CFP_DATA_COMMITTER", _person)
    data_signing_key_path: Path | None = _from_env("CFP_DATA_SIGNING_KEY_PATH", absolute_path)
    redis_url: str = _from_env(
        "CFP_REDIS_URL", _url_of("redis", "rediss", "redis+socket"), secret=True, common=True
    )
    broker_url: str | None = _from_env("CFP_BROKER_URL", _broker_url, secret=True, common=True)
    push_backoff_base_s: float = _from_env("CFP_PUSH_BACKOFF_BASE", _seconds, 1.0)
    push_backoff_cap_s: float = _from_env("CFP_PUSH_BACKOFF_CAP", _seconds, 3600.0)
    push_max_retries: int | None = _from_env("CFP_PUSH_MAX_RETRIES", _count)
    push_timeout_s: float = _from_env("CFP_PUSH_TIMEOUT", _seconds, 120.0)
    push_sweep_interval_s: float = _from_env("CFP_PUSH_SWEEP_INTERVAL", _seconds, 15.0)
    push_min_interval_s: float = _from_env("CFP_PUSH_MIN_INTERVAL", _seconds_or_zero, 0.0)
    push_express: bool = _from_env("CFP_PUSH_EXPRESS", _switch, True)
    push_rescue: bool = _from_env("CFP_PUSH_RESCUE", _switch, True)
    push_page_after_s: float = _from_env("CFP_PUSH_PAGE_AFTER", _seconds_or_zero, 3600.0)
    data_push_mode: str = _from_env("CFP_DATA_PUSH_MODE", _one_of("async", "sync"), "async")
    api_role: str = _from_env("CFP_API_ROLE", _one_of("primary", "replica"), "primary")
    api_primary_url: str | None = _from_env("CFP_API_PRIMARY_URL", _public_url)
    api_tokens: Mapping[str, Token] = _from_env("CFP_API_TOKENS", parse_tokens, factory=dict, secret=True)
    api_tokens_path: Path | None = _from_env("CFP_API_TOKENS_PATH", absolute_path)
    api_trusted_proxies: int = _from_env("CFP_API_TRUSTED_PROXIES", _count, 0)
    api_read: str = _from_env("CFP_API_READ", _one_of("open", "token"), "open")
    # RFC 2606: no one can own the domain "invalid", so no mail reaches a stranger.
    api_host: str = _from_env("CFP_API_HOST", _host, "ferry.invalid")
    api_public_url: str | None = _from_env("CFP_API_PUBLIC_URL", _public_url)
    api_rate_limit: str | None = _from_env("CFP_API_RATE_LIMIT", _rate)
    api_max_body_bytes: int = _from_env("CFP_API_MAX_BODY", _bytes, 1 << 20)
    api_max_attachment_bytes: int = _from_env("CFP_API_MAX_ATTACHMENT", _bytes, 16 << 20)
    api_cors_origins: tuple[str, ...] = _from_env("CFP_API_CORS_ORIGINS", _origins, ())
    api_extensions: tuple[str, ...] = _from_env("CFP_API_EXTENSIONS", _modules, ())
    api_oidc_issuer: str | None = _from_env("CFP_API_OIDC_ISSUER", _issuer)
    api_oidc_audience: str | None = _from_env("CFP_API_OIDC_AUDIENCE", str)
    api_oidc_name_claim: str = _from_env("CFP_API_OIDC_NAME_CLAIM", str, "sub")
    api_oidc_scope_claim: str = _from_env("CFP_API_OIDC_SCOPE_CLAIM", str, "scope")
    api_hook_timeout_s: float = _from_env("CFP_API_HOOK_TIMEOUT", _seconds, 30.0)
    webhooks: tuple[str, ...] = _from_env("CFP_WEBHOOKS", _webhooks, (), secret=True)
    webhooks_secrets: tuple[str, ...] = _from_env("CFP_WEBHOOKS_SECRET", _webhook_secrets, (), secret=True)
    webhooks_private: bool = _from_env("CFP_WEBHOOKS_PRIVATE", _switch, False)
    admin_token: str | None = _from_env("CFP_ADMIN_TOKEN", _admin_token, secret=True)
    data_reload_secrets: tuple[str, ...] = _from_env("CFP_DATA_RELOAD_SECRET", _secrets, (), secret=True)
    ssh_key_path: Path | None = _from_env("CFP_SSH_KEY_PATH", absolute_path)
    ssh_known_hosts: Path | None = _from_env("CFP_SSH_KNOWN_HOSTS", absolute_path)
    https_token_path: Path | None = _from_env("CFP_HTTPS_TOKEN_PATH", absolute_path)
    sentry_dsn: str | None = _from_env("SENTRY_DSN", _url_of("http", "https"), secret=True, common=True)
    sentry_environment: str = _from_env("SENTRY_ENVIRONMENT", str, "production", common=True)
    sentry_traces_sample_rate: float = _from_env("SENTRY_TRACES_SAMPLE_RATE", _share, 0.0, common=True)
    sentry_auth_token: str | None = _from_env("SENTRY_AUTH_TOKEN", str, secret=True, common=True)
    sentry_org: str | None = _from_env("SENTRY_ORG", _slug, common=True)
    sentry_cron_monitor: str | None = _from_env("SENTRY_CRON_MONITOR", _slug)

    @property
    def remotes(self) -> Mapping[str, str]:
        """
        Every configured remote, name to URL, ``origin`` first.
        """
        origin = {ORIGIN: self.data_remote} if self.data_remote else {}
        return {**origin, **self.data_mirrors}

    @property
    def extensions(self) -> tuple[str, ...]:
        """
        The modules to import for extensions: those that are named, then those that other settings turn on.
        """
        oidc = ("ferry.extensions.oidc",) if self.api_oidc_issuer else ()
        webhooks = ("ferry.extensions.webhooks",) if self.webhooks else ()
        return tuple(dict.fromkeys((*self.api_extensions, *oidc, *webhooks)))

    @property
    def is_replica(self) -> bool:
        """
        Whether this is a replica, which neither writes nor pushes.
        """
        return self.api_role == "replica"

    def link(self, path: str) -> str | None:
        """
        Return the public URL of *path* of this API; None if not known.
        """
        return f"{self.api_public_url}{path}" if self.api_public_url else None

    @property
    def push_longest_wait_s(self) -> float:
        """
        The longest countdown of a retry, in seconds: a wait that a host asks for may exceed the cap.
        """
        return max(self.push_backoff_cap_s, self.push_min_interval_s, 3600.0)

    @property
    def ref(self) -> str:
        """
        The branch's full name, such as ``refs/heads/main``.
        """
        return f"refs/heads/{self.data_branch}"

    @classmethod
    def common(cls) -> dict[str, str]:
        """
        Return the settings that all repositories of one worker share: the variable of each, and its field.
        """
        return {spec.metadata["variable"]: spec.name for spec in fields(cls) if spec.metadata["common"]}

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """
        Read the settings from environment variables; an empty one counts as unset.

        Raises:
            SettingsError: The message names every missing, wrong and unknown variable.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        known = {spec.metadata["variable"]: spec for spec in fields(cls)}
        for variable, spec in known.items():
            text = env.get(variable, "")
            if not text:
                continue
            try:
                values[spec.name] = spec.metadata["parse"](text)
            except ValueError as exc:
                problems.append(f"{variable}: {exc}")
        problems += [
            f"{variable}: required{_hint(variable, env)}"
            for variable in ("CFP_DATA_REPO_PATH", "CFP_REDIS_URL")
            if not env.get(variable) and (variable, values.get("api_role")) != ("CFP_REDIS_URL", "replica")
        ]
        problems += [
            _unknown(name, known) for name in sorted(env) if name.startswith(PREFIX) and name not in known
        ]
        problems += _contradictions(values)
        if values.get("api_role") == "replica":
            # A replica neither reconciles nor has mirrors, and sends no messages.
            values = {"redis_url": _NO_BROKER, **values, "data_reconcile": "manual", "data_mirrors": {}}
        if problems:
            raise SettingsError("; ".join(problems))
        return cls(**values)


def _hint(variable: str, env: Mapping[str, str]) -> str:
    if variable != "CFP_DATA_REPO_PATH" or not env.get("CFP_DATA_REPOSITORIES"):
        return ""
    return f"; for one of several: (set -a; . {env['CFP_DATA_REPOSITORIES']}/NAME.env; COMMAND)"


def _unknown(name: str, known: Mapping[str, object]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"{name}: unknown setting" + (f"; did you mean {nearest[0]}?" if nearest else "")
