"""
Why a push failed: the one table from what ``git push --porcelain`` said to a reason.

``POLICIES`` says what each reason leads to, ``explain`` finds it: first by channel (exit status, the
ref's own line, ``Done``), then by the label in that line's last parentheses, then by text. The first
rule that matches decides, not the first line, so the order of lines does not matter; in each table
the specific stands above the general.

Who speaks matters as much as what is said: a ``remote:`` line is the remote's, an unprefixed one is
our git's, ssh's or libcurl's. "No space left on device" is a different failure from each.

Pure: texts in, a value out. ``git.remote`` runs git and redacts, ``attempt`` acts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Literal, cast

from ferry.worker.observe.printable import in_line

Reason = Literal[
    "non-fast-forward", "rejected", "auth", "host-key", "not-found", "locked", "network", "timeout",
    "server", "rate-limited", "local", "stalled", "unknown",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Policy:
    """
    The consequences of a reason.

    Attributes:
        retried: Whether the same push is tried again by itself.
        page: When to page; ``after-a-while``: after CFP_PUSH_PAGE_AFTER seconds of failures.
        told: A title, with ``{remote}``; "": the title is the failure's own message.
        hint: What an operator does next, in one sentence.
        commands: The commands to type, in order, with the fields ``{repository}``, ``{remote}`` and
            ``{branch}``.
    """

    retried: bool
    page: Literal["at-once", "after-a-while"]
    told: str
    hint: str
    commands: tuple[str, ...]


_LOOK, _TRY = "ferry push status", "ferry push now --remote {remote}"

POLICIES: Mapping[Reason, Policy] = MappingProxyType({
    "non-fast-forward": Policy(False, "at-once", "{remote} diverged",
        "See what each side holds, and join it.",
        ("ferry reconcile --remote {remote} --dry-run", "ferry reconcile --remote {remote}", _LOOK)),
    "rejected": Policy(False, "at-once", "{remote} refuses our commits",
        "Change the remote's rule, or the commit that breaks it: every later commit waits behind it.",
        ("ferry push find-refused --remote {remote}", _TRY, _LOOK)),
    "auth": Policy(True, "at-once", "{remote} does not let us in",
        "Renew the key or token, or give it the right to write; the next attempt reads it afresh.",
        ("ferry doctor", _TRY, _LOOK)),
    "host-key": Policy(True, "at-once", "{remote} shows a key or certificate that is not trusted",
        "Compare the server's key or certificate with what its owner publishes (this may be an attack), then "
        "put an ssh key into the file that CFP_SSH_KNOWN_HOSTS names.",
        ("ferry doctor", _TRY, _LOOK)),
    "not-found": Policy(True, "at-once", "{remote} is not there",
        "Check the URL, and that the repository exists, is writable (not archived) and visible to us; if it "
        "moved, set its new URL (CFP_DATA_REMOTE, CFP_DATA_MIRRORS) and restart.",
        ("git -C {repository} remote get-url {remote}", _TRY, _LOOK)),
    "locked": Policy(True, "after-a-while", "{remote} is locked by a git that ended",
        "Wait; if it lasts, remove the stale lock file that a dead git left in the remote repository.",
        (_LOOK, _TRY)),
    "network": Policy(True, "after-a-while", "{remote} cannot be reached",
        "Check DNS, firewall, proxy and the route to the remote; pushing resumes by itself.",
        ("ferry doctor", _TRY, _LOOK)),
    "timeout": Policy(True, "after-a-while", "{remote} does not answer in time",
        "See whether the remote or the way to it hangs; raise CFP_PUSH_TIMEOUT if a push needs longer.",
        ("ferry doctor", _TRY, _LOOK)),
    "server": Policy(True, "after-a-while", "{remote} answers with an error of its own",
        "Check the host's status page, or its logs and disk if it is yours; pushing resumes by itself.",
        (_LOOK, _TRY)),
    "rate-limited": Policy(True, "after-a-while", "{remote} asks us to push less often",
        "Raise CFP_PUSH_MIN_INTERVAL, or ask the host for a higher limit.",
        (_LOOK,)),
    "local": Policy(True, "at-once", "",
        "Check the repository, its disk and its permissions: the fault is on our side.",
        ("ferry doctor", "git -C {repository} fsck", "df -h {repository}", _TRY)),
    "stalled": Policy(True, "at-once", "no process pushes to {remote}",
        "Find out which is down or hangs: the worker, beat or the broker; start or restart it.",
        ("ferry doctor", "celery -A ferry.worker inspect ping", _TRY)),
    "unknown": Policy(True, "after-a-while", "",
        "Act on what git said, and add a rule for it to worker/failures.py.",
        (_LOOK, _TRY)),
})  # fmt: skip


# A divergence with its own title and hint: others force-pushed the remote's branch.
REWRITTEN = Policy(False, "at-once", "the history of {remote} was rewritten",
    "Ask who replaced the history there and why; then put the old tip back there, or join both sides, which "
    "brings the replaced commits back.",
    ("ferry reconcile --remote {remote} --dry-run", _LOOK))  # fmt: skip


# Hints for rules that are more specific than their reason, by the rule's name.
_HINTS: Mapping[str, str] = MappingProxyType({
    "pull-requests-only":
        "Ferry cannot serve a branch that takes pull requests only: let its account past that rule, or set "
        "CFP_DATA_BRANCH to a branch that takes pushes, and open the pull requests from there.",
    "unsigned":
        "The branch takes signed commits only: set CFP_DATA_SIGNING_KEY_PATH and CFP_DATA_COMMITTER, "
        "register the key at the host, and let what was committed before past the rule once.",
    "forced-update": REWRITTEN.hint,
})  # fmt: skip


def policy_of(reason: str, *, rewritten: bool = False) -> Policy | None:
    """
    Return the policy of *reason*; None if the reason is another version's.

    Args:
        rewritten: Whether others force-pushed the remote's branch.
    """
    if rewritten and reason == "non-fast-forward":
        return REWRITTEN
    return POLICIES.get(cast(Reason, reason))


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    The result of a push.

    Attributes:
        reason: Why it failed, or ``pushed`` or ``up-to-date``.
        rule: Stable name of the rule that decided.
        evidence: The line that decided, or "". If a hook declined: the hook's own message.
        ambiguous: The push may have landed although git reports a failure: ask the remote.
        retry_after_s: The wait that the remote asked for, in seconds, if it named one.
    """

    reason: Reason | Literal["pushed", "up-to-date"]
    rule: str
    evidence: str
    ambiguous: bool
    retry_after_s: float | None = None

    @property
    def landed(self) -> bool:
        """
        Whether the remote has the commit.
        """
        return self.reason in ("pushed", "up-to-date")

    @property
    def hint(self) -> str:
        """
        What an operator does next, in one sentence.
        """
        if self.landed:
            return "Nothing: the remote has the commit."
        return _HINTS.get(self.rule) or POLICIES[cast(Reason, self.reason)].hint


# --- The rules ---

Speaker = Literal["label", "remote", "local"]
LABEL: tuple[Speaker, ...] = ("label",)  # the ref's line, read as "[remote rejected] (words)"
REMOTE: tuple[Speaker, ...] = ("remote",)  # a "remote:" line, without that prefix
LOCAL: tuple[Speaker, ...] = ("local",)  # git, ssh or libcurl on this side
ANSWER: tuple[Speaker, ...] = (*LABEL, *REMOTE)
ANYONE: tuple[Speaker, ...] = (*ANSWER, *LOCAL)


@dataclass(frozen=True)
class Rule:
    """
    A text, and its meaning if one of *speakers* prints it.

    Attributes:
        text: A regular expression.
        ambiguous: Whether a ref may have moved although it was reported as refused.
    """

    name: str
    reason: Reason
    speakers: tuple[Speaker, ...]
    text: str
    ambiguous: bool = False

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """
        The text, compiled: all rules take 25 ms, which a process without a failed push does without.
        """
        return re.compile(self.text)


def _rule(
    name: str, reason: Reason, speakers: tuple[Speaker, ...], *texts: str, ambiguous: bool = False
) -> Rule:
    # A gap has a bound, so that the time is linear in the line's length, not quadratic. Texts and lines are
    # in lower case: a search that ignores case takes four times as long.
    return Rule(name, reason, speakers, "|".join(texts).replace(".*", ".{0,120}"), ambiguous)


def _http(codes: str) -> str:
    """
    Match libcurl's "returned error: 403" and git's "RPC failed; HTTP 403" (also as older ones wrote it).
    """
    return rf"(?:returned error: |rpc failed; (?:result=22, )?http (?:code = )?)(?:{codes})\b"


# Our own objects (object-file.c, pack-objects). They pose as refusals: pack-objects dies and the remote
# reports an unpacker error; with a parent lost, our git believes in a non-fast-forward. JGit (Gerrit)
# words missing necessary objects as "error Missing tree". Signal 13 means that the connection ended.
_OWN_OBJECTS = (
    _rule("own-objects", "local", LOCAL,
          r"\bbad (?:tree |blob |commit )?object [0-9a-f]{7}|missing (?:blob|tree|commit)|inflate: ",
          r"(?:unable to|could not) (?:read|parse|unpack) (?:\w+ )?[0-9a-f]{7}|object .*is (?:corrupt|empty)",
          r"packfile .*(?:does not match|cannot be|truncated)|unknown object type \d",
          r"pack-objects died(?! of signal 13)|hash mismatch [0-9a-f]{7}"),
    _rule("own-pack", "local", ANYONE,
          r"eof before pack header|error missing \w+ [0-9a-f]{7}|did not receive expected object"),
)  # fmt: skip

# Hosts that name the rule of a protected branch: GitHub, GitLab, Gitea, Bitbucket, Azure DevOps.
_PULL_REQUESTS_ONLY = _rule("pull-requests-only", "rejected", ANYONE,
    r"must (?:be made|use) .*(?:pull|merge) request|only .*through (?:a )?(?:pull|merge) request",
    r"\btf402455\b|not allowed to push (?:code )?to protected branch|approving reviews? (?:is|are) required",
)  # fmt: skip
_UNSIGNED = _rule("unsigned", "rejected", ANYONE,
    r"must have (?:valid |verified )?signatures?|must be signed|unsigned commit|from unverified commit",
)  # fmt: skip

# Refused by policy: GitHub's GH001 to GH013, Azure DevOps' TF and VS codes, GitLab's checks
# (lib/gitlab/checks), Gerrit, hooks, and git's receive.maxInputSize and receive.fsckObjects.
_POLICY = _rule("policy", "rejected", ANYONE,
    r"\bgh0\d\d\b|\btf40(?:2455|1027|1289|246\d)\b|\bvs403(?!463|325)\d{3}\b|prohibited by gerrit",
    r"push declined due to|must use a pull request|through (?:pull|merge) requests|aborted by hook",
    r"protected branch|exceeds (?:the )?max|exceed\w* .*(?:size|storage) limit|(?<!disk )quota exceeded",
    r"storage limit .*reached|(?:object|pack|file) (?:too large|exceeds)|larger than|fsck error",
    r"lfs objects are missing|contain.* secrets?\b",
    _http("411|413|422"),
)  # fmt: skip


# The host is busy or broken, and reports it: the words end there, or say whom or what it concerns. A hook
# that has to ask another service (GitLab, Gitea) "declines" while that is down, which is no policy.
def _report(*texts: str) -> str:
    goes_on = "for|by|from|to|at|on|per|while|until|due|occurred|please"
    return rf"(?:{'|'.join(texts)})(?=\W*$|[.:;,!(]| \(| (?:{goes_on})\b)"


_BUSY = _rule("rate-limit", "rate-limited", ANYONE, _report(
    r"rate.?limited", r"\b(?:exceed|reach|hit|over)\w*\b.*\brate.?limit",
    r"rate.?limit\w*\b.*(?:exceeded|reached|hit)", r"rate exceeded", r"(?<!/)throttl(?:ed|ing)",
    r"too many (?:requests|connections|concurrent [\w ]+)"),
    r"requested too many times|\btf400733\b|resource_?exhausted|abuse detection",
)  # fmt: skip
_HOST_DISK = _rule("host-disk", "server", ANSWER,
    _report(r"no space left on device", r"disk quota exceeded", r"read-only file system",
            r"input/output error", r"out of memory", r"too many open files", r"cannot allocate memory"),
    r"out of memory, |insufficient permission for adding|cannot lock pack|unable to migrate objects",
    r"unable to create temp|(?:^|: )(?:unable to|cannot|could not|failed to) \w+ .*: permission denied",
    r"error permission denied",
)  # fmt: skip
_HOST_HOOK = _rule("host-hook", "server", ANYONE, r"hooks/\S+ died of signal|cannot (?:run|exec) '?\S*hooks/")
_HOST_TROUBLE = _rule("host-trouble", "server", ANSWER, _report(
    r"internal (?:server |connection |server connection )?error", r"internal api (?:error|unreachable)",
    r"api is not accessible", r"bad gateway", r"gateway time-?out", r"services? (?:is )?unavailable",
    r"heavy load", r"overloaded", r"(?:temporarily|currently) (?:unavailable|read-only)", r"read-only mode",
    r"maintenance(?: mode| window)?", r"try again later", r"connection refused", r"deadline exceeded",
    r"timed out", r"starting up", r"something went wrong"),
    r"failed to contact|unable to contact|rpc error: code|\btf(?:400898|10216|246017)\b",
    r"gitaly.* not available|not available at this time|failed to connect to|timed out after \d",
)  # fmt: skip
_READ_ONLY = _rule("read-only", "not-found", ANYONE,
    r"(?:was|is|been) archived|archived (?:so|project|repo)|project state (?:\w+ )?does not permit",
    r"repository (?:access )?(?:(?:is|was|has been) )?(?:blocked|disabled)\b",
    r"^(?!.*(?:temporar|maintenance)).*(?:repository|project|mirror)\b.*\bread[- _]only",
    r"read[- _]only (?:\w+ )?(?:repository|mirror|instance)|locked for migration|being migrated",
    r"pushing .* to (?:copy|slave) ",
)  # fmt: skip

# There is a "!" line: the remote answered for the ref, or our git before it sent anything. Labels are
# those of transport.c, builtin/receive-pack.c, refs.c and JGit's ReceivePack.
REFUSED = (
    *_OWN_OBJECTS,
    _rule("diverged", "non-fast-forward", LABEL,
          r"rejected\] \((?:fetch first|non-fast[- ]forward|stale info|needs force|already exists)",
          r"rejected\] \(remote ref updated since checkout"),
    _rule("no-report", "server", LABEL, r"^\[remote failure\]", ambiguous=True),
    _rule("name-clash", "rejected", ANSWER,
          r"exists; cannot create|still refs under|blocking reference|name conflicts with|refname conflict",
          r"case-insensitive filesystem"),
    _READ_ONLY,
    _PULL_REQUESTS_ONLY,
    _UNSIGNED,
    _POLICY,
    _BUSY,
    _HOST_DISK,
    _HOST_HOOK,
    # A remote that broke while it wrote refs cannot be believed about refs.
    _rule("broke-while-writing", "server", ANSWER,
          r"fatal error in commit_refs|rejected\] \((?:failure|internal (?:server )?error)", ambiguous=True),
    _HOST_TROUBLE,
    # Another push came at the same instant, or a killed git left its lock: the remote's tip tells which.
    _rule("ref-locked", "locked", ANSWER,
          r"(?:^|\(|error: )cannot lock ref|\(failed to (?:update ref|lock|delete)",
          r"\(lock[ _](?:failure|error)|\(.*already locked",
          r"\((?:incorrect old value|reference (?:already exists|does not exist)|unknown failure)",
          r"\(transaction failed|tf401028|already been updated by another", ambiguous=True),
    _rule("host-ref-broken", "server", REMOTE, r"fatal: bad object refs/"),
    _rule("objects-missing", "local", LABEL, r"missing necessary objects|missing object|\(bad pack"),
    _rule("unpack-failed", "server", LABEL, r"unpacker error|proc-receive"),
    _rule("may-not-write", "auth", LABEL, r"\((?:permission|access) denied\)"),
    # Gerrit's, where a review exists already; a branch may hold the commit by then.
    _rule("nothing-new", "rejected", LABEL, r"\(no new changes", ambiguous=True),
    _rule("hook-declined", "rejected", LABEL, r"hook declined"),
    _rule("ref-refused", "rejected", LABEL, r""),  # a refusal, whatever the text
)  # fmt: skip

# OpenSSH's sshconnect.c. A certificate that does not verify (libcurl on OpenSSL, GnuTLS, NSS or Schannel)
# asks the same question, whether this is the server we mean, and has the same answer: nobody may switch
# the check off.
_HOST_KEY = _rule("server-unverified", "host-key", LOCAL,
    r"host key verification failed|remote host identification has changed|host key is known",
    r"host key (?:mismatch|is not cached|for .* has changed)|revoked host key|no matching host key type",
    r"certificate (?:verif|problem|status|subject|has expired|is not|issuer)|alternative certificate",
    r"server verification failed|self[- ]signed certificate|not trusted|untrusted|ocsp|pinned",
    r"public key does not match|ssh remote key was not ok|key_verify failed|certificate check failed",
    r"common name from peer certificate",
)  # fmt: skip

# Asked who we are (OpenSSH, credential.c, http.c, a proxy), or told that it does not suffice: by gitolite,
# Gerrit and the other front ends that decide who may do what, in their many words for it.
_AUTH = _rule("access-denied", "auth", ANYONE,
    r"permission denied(?:,| \(| (?:for|on) )|permission to .*denied|write-disabled",
    r"too many authentication failures|authentication (?:failed|required)|captcha",
    r"(?:could not read|unable to get) (?:username|password)|prompts disabled|askpass",
    r"user interactivity has been disabled",
    r"(?:invalid|incorrect|bad|wrong) (?:\w+ ){0,2}(?:username|credentials?|password|token|key)\b",
    r"account passwords|password authentication|authori[sz]ation required|saml sso|login denied",
    r"access ?(?:to .*)?denied|unauthori[sz]ed(?! (?:access|use))|n['o]t (?:been )?authori[sz]ed",
    r"upload denied|denied (?:to|by) |key denied|not granted|git access forbidden",
    r"n['o]t (?:allowed|permitted) to (?:push|upload|write|access)|(?:may not|cannot|can't) push",
    r"^\W*(?:\w+: )?forbidden\W*$|-pack(?: is)? not permitted|permission_denied|over \w+ is not allowed",
    r"ssh has been disabled",
    r"(?:n['o]t have|lacks?|not enough|insufficient|no) (?:\w+ ){0,4}(?:permissions?|privileges?|scopes?)\b",
    r"(?:n['o]t have|lacks?|no) (?:\w+ ){0,3}(?:rights?|authori[sz]ation)\b|\bno access to",
    r"n['o]t have (?:\w+ ){0,3}(?:push|access)\b|allow(?:ed)? ?list|conditional access",
    r"\btf400813\b|\bvs30063\b|account (?:\w+ ){0,3}(?:suspended|blocked|locked|deactivated|disabled)",
    r"(?:account|password|token|key) (?:\w+ ){0,2}(?:expired|revoked)|no (?:supported )?auth\w* methods",
    r"policy does not permit|password change required|change of username",
    r"account is (?:currently )?not available|prohibited from|key check failed|ssh key audit|using ssh-rsa",
    r"rsa key with sha-1|accept the terms|contributor agreement|email address is not confirmed",
    r"\botp\b|two-(?:factor|step)|shell is not enabled|shell access|interactive shell|sftp connections only",
    r"(?:disallowed|unrecognized|invalid) command|unknown git\S* command|command \S+ is not supported",
    r"helper .* told us to quit|profile does not|authenticate with proxy|authentication function",
    r"certificate is required|alert (?:certificate (?:required|expired|revoked|unknown)|bad certificate)",
    r"alert unknown ca|gss_init|rejected by the socks|(?:response|http code) 407",
    _http("401|402|403|407|495|496"),
)  # fmt: skip

# There is no answer for the ref. Errors of our side come first: they happen before a remote is reached.
UNANSWERED = (
    *_OWN_OBJECTS,
    # git prints this for every failure of a credential helper.
    _rule("no-credentials", "auth", LOCAL, r"(?:could not read|unable to get) (?:username|password)"),
    _rule("own-setup", "local", LOCAL,
          r"not a git repository|refspec|not a full refname|no configured push destination|unknown option",
          r"bad (?:\w+ )?config|bad owner or permissions|expected git repo version|not a git command",
          r"unable to find remote helper|transport '\w+' not allowed|ssh variant|unable to access 'path'",
          r"(?:cannot|unable to) (?:run|exec|spawn|fork)|ssh\S*: (?:command )?not found|unable to create\b",
          r"(?:cannot|can't|could not) (?:open|change to|create|lock ref)|(?:bad|invalid|a valid) object",
          r"exec: \S+: not found|fork: (?:retry: )?resource|write object|insufficient permission for adding",
          r"unable to read (?:config|current)|reading the configuration files|\$home not set|alternates",
          r"no user exists for uid|you don't exist|control ?path|too long for unix|percent_expand",
          r"line \d+: (?:missing|bad|unsupported)|terminating, \d+ bad|bad (?:ssh2? cipher|key types|port)",
          r"strange (?:hostname|pathname|port)|no path specified|credential url cannot be parsed",
          r"no space left|read-only file system|quota exceeded|input/output error|out of memory",
          r"too many open files|cannot allocate memory|thread failed to start|\.netrc",
          r"error (?:(?:setting|adding|loading) \w+|reading x\.509)|(?:load|use|local) .*client cert",
          r"failed to sign|shallow file has changed|set private key|problem with the (?:local )?ssl",
          r"problem with the local|cipher list|crypto engine",
          r"url (?:rejected|using bad)|port number|protocol .* (?:not supported|disabled)",
          r"unsupported (?:proxy|protocol)|failed initialization|not found built-in|specified ssl cipher",
          r"(?:unexpected|unterminated) line in "),
    _rule("unsuited", "local", ANYONE,
          r"dubious ownership|unsafe repository|receiving end does not support|mismatched algorithms",
          r"unknown object format"),
    _HOST_KEY,
    _BUSY,
    # What sshd says instead of its banner, or before it refuses every login.
    _rule("sshd-busy", "rate-limited", LOCAL, r"exceeded maxstartups|not allowed at this time"),
    _rule("sshd-starting", "server", LOCAL, r"system is (?:booting|going|shutting)"),
    _rule("too-many-requests", "rate-limited", LOCAL, _http("429|509")),
    _PULL_REQUESTS_ONLY,
    _UNSIGNED,
    _POLICY,
    _rule("key-may-not-write", "auth", ANYONE,
          r"key\b.*\b(?:read[- ]only|write access|not authorized|read access only)"),
    _HOST_DISK,
    _HOST_HOOK,
    _HOST_TROUBLE,
    _READ_ONLY,
    # GitHub, GitLab and Azure DevOps report lost access this way too. A web server without git is here as
    # well.
    _rule("no-repository", "not-found", ANYONE,
          r"(?:repository|repo|project|owner)\b.* (?:not found|not be found|(?:does|do) not exist|disabled)",
          r"(?:cannot|could not) find (?:the )?(?:repository|project)|no such (?:repository|project|app)\b",
          r"no repository .*exists|invalid repo\b|push to create is not enabled",
          r"invalid repository (?:path|syntax|name)|project .* was moved to",
          r"does not appear to be a git repository|repository not exported|service not enabled",
          r"is this a git repository|git-http-push failed|find remote ref|update url base from redirection",
          r"maximum \(\d+\) redirects|redirects hit maximum|\btf(?:401019|200016)\b",
          _http(r"30\d|404|405|410|451")),
    _rule("name-not-found", "not-found", REMOTE,
          r"^(?:(?:fatal|error): )?(?:\S+: )?not found\W*$|project not found: \S+$"),
    _AUTH,
    # Other texts about these, before access is granted, mean that access is denied.
    _rule("may-not", "auth", REMOTE,
          r"^\W*(?:(?:fatal|error): )?(?:[\w ]+: )?(?:\w+ ){0,2}permission denied\W*$",
          r"^(?:fatal|error): .*\b(?:key|token|password|login|account|user|access|denied|allowed)\b",
          r"^(?:fatal|error): .*\b(?:permission|permitted|privilege|authori|authenti|credential)"),
    _rule("ref-locked", "locked", ANYONE, r"cannot lock ref", _http("409|423")),
    _rule("server-error", "server", LOCAL, _http(r"421|425|499|5(?!11)\d\d")),
    # OpenSSH's connect and key exchange, libcurl's connection errors, connect.c; a proxy is network too.
    _rule("connection", "network", LOCAL,
          r"could not resolve|unable to look up|ssh: connect to host|unable to connect|errno=|timed out",
          r"(?:failed|couldn't|could not|can't) (?:to )?connect|connection refused|no route to host|timeout",
          r"network is (?:unreachable|down)|operation too slow|(?:kex|ssh)_exchange_id|banner exchange",
          r"ssh_dispatch_run_fatal|unable to negotiate|connection (?:closed|reset|was reset|abort)|socks",
          r"(?:recv|send) failure|broken pipe|received disconnect|disconnected from|proxy connect",
          r"corrupted mac|bad packet length|packet corrupt|protocol major versions|after connect",
          r"stdio forwarding failed|bad remote protocol",
          r"connect tunnel failed|gnutls|ssl_|ssl routines|tls connection", _http("408|511")),
    # The other side stopped in the middle (remote-curl.c, send-pack.c, sideband.c), or talks no git.
    _rule("cut-short", "server", ANYONE,
          r"rpc failed|unexpected disconnect|early eof|hung up|sideband|closed by remote host|empty reply",
          r"transfer closed|not closed cleanly|http/?2 framing|protocol error|request failed on channel",
          r"open failed|session open refused|receive-pack\S*: (?:(?:command )?not found|error while)",
          r"(?:not found|unknown command)\W+git-receive-pack|receive-pack\W+is not recognized",
          r"invalid server response|expected flush|aborted session"),
    _rule("connection-other", "network", LOCAL, r"unable to access 'url': (?!the requested url)"),
    _rule("host-git", "server", REMOTE,
          r"^(?:fatal|error): (?!could not read from remote)|internal error|contact an admin",
          r"service (?:\(\S+ )?is unavailable|is not available over"),
)  # fmt: skip

# --- Reading the output ---

_AT_THE_DOOR: frozenset[Reason] = frozenset({"auth", "not-found"})
_TRANSIENT: frozenset[Reason] = frozenset({"network", "server", "rate-limited", "locked", "unknown"})
# What may also be said without "fatal:" and the like: a banner has words in it that match others.
_FRONT_ENDS = [rule for rule in UNANSWERED if rule.name in ("may-not", "name-not-found", "host-git")]
# The connection was established and ended: the pack may have arrived by then.
_MAYBE_SENT = re.compile(
    r"rpc failed|unexpected disconnect|early eof|hung up unexpectedly|sideband|broken pipe"
    r"|connection to \S+ closed by remote host|server \S+ not responding|aborted session"
)
# From die_initial_contact() in connect.c. Six causes print it, and it names none of them.
_NO_CONTACT = "fatal: Could not read from remote repository."
_NOTHING_SENT = (
    _NO_CONTACT,
    "fatal: unable to access '",
    "fatal: the remote end hung up upon initial contact",
)
# 124 is timeout(1)'s; the rest are SIGINT, SIGKILL and SIGTERM as a shell and as Python count them.
_ENDED_FROM_OUTSIDE = frozenset({124, 130, 137, 143, -2, -9, -15})

_WIDTH, _HEIGHT = 500, 60  # so that a hook that prints megabytes costs no time; both ends are kept
_REF_LINE = re.compile(r"([ +*=!-])\t\S*:(\S*)\t")
_REFUSAL = re.compile(r"!\t\S*:\S*\t|\s*! \[")  # the second is how it looks without --porcelain
_KIND_AND_WORDS = re.compile(r"(\[[^\]]*\])(?:.*? \((.*)\))?")
# Over ssh, a host's front end writes to our stderr as it is.
_REMOTE = re.compile(
    r"remote: ?|(?=fatal: remote error:|error: remote unpack failed:)"
    r"|(?=(?:> )?(?:ERROR|FATAL|NOTICE|GitLab|Gitea|Forgejo|Gogs|GitBlit|Bitbucket|RhodeCode|Kallithea):)"
    r"|(?=conq:|phabricator-ssh-exec:)|Gerrit Code Review: "
)
# The last two are ssh's, which goes on without a home to write to and without a connection to share.
_FAILED = re.compile(r"error: failed to push some refs")
# What git adds to that where it had begun to send, or went another way than past a pre-push hook.
_BEGUN = ("send-pack: ", "fatal: the remote end hung up", "fatal: git-http-push failed", "error: RPC failed")
_CHATTER = re.compile(
    rf"(?:hint|warning):|{_FAILED.pattern}|To \S"
    r"|could not create directory '|control socket connect",
    re.IGNORECASE,
)
_SAYS_LITTLE = re.compile(
    r"(?:remote: ?)?(?:[^A-Za-z]*$|(?:Resolving|Counting|Compressing|Enumerating|Writing|Processing) )"
    r"|Please make sure you have|and the repository exists|Everything up-to-date"
)
# A repository or a host called "rate-limited" is not one that is.
_NAMES = re.compile(
    r"(?<!\w)'[^'/@]*[/@][^']*'(?!\w)|(?<!\S)\S*?(?:://|@)\S+|(?<=to host )\S+"
    r"|(?<=resolve host: )\S+|(?<=resolve proxy: )\S+|(?<=hostname )\S+"
)
# What a hook quotes is no report of its own: other words, a path, a commit and its subject.
_QUOTED = re.compile(
    r"(?<!\w)'[^']*'(?!\w)|\"[^\"]*\"|`[^`]*`|(?<!\S)(?!\S*hooks/|input/output)[^\s/]*/\S*"
    r"|^\W*(?:commit )?[0-9a-f]{7,64}\b.*|\b(?:subject|message|title)\b.*"
)


@dataclass(frozen=True, slots=True)
class _Line:
    speaker: Speaker
    text: str  # for rules, in lower case
    whole: str  # for people


def explain(exit_status: int | None, stdout: str, stderr: str, *, ref: str | None = None) -> Verdict:
    """
    Return the verdict on a finished ``git push --porcelain``.

    Args:
        exit_status: git's exit status; None if Ferry ended it at its timeout.
        stdout: A line per ref, and ``Done``.
        stderr: Everything else.
        ref: Full name of the ref that was pushed to: without a line for it nothing counts as pushed. None if
            not known, as for output that a person pasted.
    """
    if exit_status is None or exit_status in _ENDED_FROM_OUTSIDE:
        return Verdict("timeout", "ended-from-outside", "", ambiguous=True)
    printed, said = _lines(stdout), _lines(stderr)
    flags = {match[1] for line in printed if (match := _REF_LINE.match(line))}
    refusals = [line for line in printed if _REFUSAL.match(line)]
    if exit_status and not printed:
        refusals += [line for line in said if _REFUSAL.match(line)]
    if refusals:
        labels = [_label(line) for line in refusals]
        is_hooks = any("hook declined" in label.text for label in labels)
        return _refused([*_spoken(said, is_quoted=is_hooks), *labels])
    if exit_status == 0 and ref is not None:
        flags = {match[1] for line in printed if (match := _REF_LINE.match(line)) and match[2] == ref}
        if not flags:
            return Verdict("unknown", "no-ref-line", "git push did not name our branch", ambiguous=True)
    if exit_status == 0:
        is_new = flags - {"="} or not (flags or "Everything up-to-date" in said)
        return Verdict("pushed" if is_new else "up-to-date", "exit-status", "", ambiguous=False)
    # A ref that it called updated, or "Done" alone: whatever went wrong came after the pack was sent.
    is_sent = bool(flags) or "Done" in printed
    return _unanswered(
        said, is_sent=is_sent, is_stopped=exit_status == 1 and not printed and _is_stopped(said)
    )


def _refused(lines: list[_Line]) -> Verdict:
    rule, line = _first(REFUSED, lines, is_in=False) or (
        REFUSED[-1],
        lines[-1],
    )  # its last rule takes any label
    evidence = line.whole
    if rule.reason == "rejected" and line.speaker == "label":
        remote = (other.whole for other in lines if other.speaker == "remote")
        evidence = next((words for words in remote if not _SAYS_LITTLE.match(words)), evidence)
    return Verdict(rule.reason, rule.name, evidence, rule.ambiguous, _stated_wait(rule.reason, lines))


def _is_stopped(said: list[str]) -> bool:
    """
    Whether a pre-push hook stopped our git: git failed, and printed no message of its own.
    """
    return any(map(_FAILED.match, said)) and not any(line.startswith(_BEGUN) for line in said)


def _unanswered(said: list[str], *, is_sent: bool, is_stopped: bool) -> Verdict:
    lines = _spoken(said)
    is_cut = any(_MAYBE_SENT.search(line.text) for line in lines)
    # The output of a pre-push hook, and of programs that it runs, is not the remote's.
    rules = [rule for rule in UNANSWERED if not is_stopped or rule.reason == "local"]
    found = _first(rules, lines, is_in=is_sent or is_cut)
    if not found and not is_stopped and _NO_CONTACT in said:
        # No program of ours says so: over ssh, a front end writes to our stderr as it is.
        theirs = [_Line("remote", line.text, line.whole) for line in lines if line.whole != _NO_CONTACT]
        found = _first(_FRONT_ENDS, theirs, is_in=False)
    if found:
        reason, name, evidence = found[0].reason, found[0].name, found[1].whole
    else:
        evidence = _last_words(said, lines)
        reason, name = "unknown", "no-rule"
        if is_sent:
            reason, name = "server", "answer-lost"
        elif is_stopped:
            reason, name = "local", "stopped-before-sending"
    if reason == "unknown":
        is_doubtful = not any(line.startswith(_NOTHING_SENT) for line in said)
    else:
        is_doubtful = is_cut and reason in _TRANSIENT
    return Verdict(reason, name, evidence, is_sent or is_doubtful, _stated_wait(reason, lines))


def _last_words(said: list[str], lines: list[_Line]) -> str:
    telling = [line.whole for line in lines if not _SAYS_LITTLE.match(line.whole)]
    return next((line for line in reversed(telling) if line != _NO_CONTACT), (telling or said or [""])[-1])


def _first(rules: Iterable[Rule], lines: list[_Line], *, is_in: bool) -> tuple[Rule, _Line] | None:
    """
    Return the first rule that any line matches, with that line.

    Args:
        is_in: Whether the remote had granted access: "denied" and "not found" are then texts of a hook.
    """
    for rule in rules:
        for line in lines:
            if rule.reason in _AT_THE_DOOR and is_in and line.whole.startswith("remote:"):
                continue
            if line.speaker in rule.speakers and rule.pattern.search(line.text):
                return rule, line
    return None


def _lines(text: str) -> list[str]:
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    kept = lines[:_HEIGHT] + lines[_HEIGHT:][-_HEIGHT:]
    return [in_line(line[:_WIDTH]).rstrip() for line in kept]


def _label(line: str) -> _Line:
    match = _KIND_AND_WORDS.search(line)
    return _Line("label", f"{match[1]} ({match[2] or ''})".lower() if match else "", line.strip())


def _spoken(said: list[str], *, is_quoted: bool = False) -> list[_Line]:
    """
    Separate the remote's lines from ours, and drop the lines that git adds to every failure.

    Args:
        is_quoted: Whether to blank quoted text in the remote's lines.
    """
    # If the first contact failed, earlier messages of a git were the remote's: ours had not begun.
    theirs = ("fatal: ", "error: ", "git-receive-pack: ") if _NO_CONTACT in said else ()
    lines = []
    for whole in said:
        if _CHATTER.match(whole):
            continue
        text = _NAMES.sub(lambda name: "'URL'" if "://" in name[0] else "'PATH'", whole)
        prefix = _REMOTE.match(text)
        speaker: Speaker = "remote" if prefix or whole.startswith(theirs) else "local"
        text = text[prefix.end() if prefix else 0 :].strip()
        if is_quoted and speaker == "remote":
            text = _QUOTED.sub("", text)
        lines.append(_Line(speaker, text.lower(), whole.strip()))
    return lines


_UNITS_S = {"ms": 0.001, "milli": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SPAN = re.compile(
    r"(?P<count>\d{1,9}(?:\.\d{1,3})?|(?<=in )an?)\s*(?:more )?"
    r"(?P<unit>ms|milli|s|m|h|d)(?:ec(?:ond)?|second|in(?:ute)?|r|our|ay)?s?(?![a-z])"
)
_WAIT = re.compile(
    r"retry[-_ ]after(?:[-_]seconds)?\b[\s:=\"]*(?P<seconds>\d{1,9}(?:\.\d{1,3})?)(?![\d.]*\s*[a-z:/-])"
    rf"|(?:try\w*|wait|available|resets?)\b[^.\d]{{0,40}}?(?P<spans>(?:{_SPAN.pattern}(?:,|\s|and)*)+)"
)


def _stated_wait(reason: Reason, lines: list[_Line]) -> float | None:
    """
    Return the wait that one of *lines* names: "Retry-After: 60", "try again in 5 minutes".
    """
    match = next(filter(None, (_WAIT.search(line.text) for line in lines)), None)
    if match is None or reason not in _TRANSIENT:
        return None
    if match["seconds"]:
        return float(match["seconds"])
    return sum(
        _UNITS_S[span["unit"]] * (float(span["count"]) if span["count"][0].isdigit() else 1)
        for span in _SPAN.finditer(match.string, *match.span("spans"))
    )
