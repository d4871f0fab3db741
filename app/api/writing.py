"""
The common part of every write: one commit, an answer that can be repeated, and waiting for the remote on
request.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, cast

from flask import Response, current_app, g, jsonify, request
from gitsheets import GitsheetsError

from ferry.app.api.conditions import preference
from ferry.app.api.push import commit_states
from ferry.app.errors import BusyError, KeyReusedError, StoreError
from ferry.app.problems import Problem
from ferry.app.provenance import Provenance
from ferry.app.records.codec import Record
from ferry.app.records.json_form import read_record, to_json
from ferry.app.server.later import Waiting, leave
from ferry.app.services import services
from ferry.app.sheets.evaluation import Evaluations, NotEvaluatedError
from ferry.app.store.idempotency import (
    TRAILER,
    KeyedWrite,
    StoredAnswer,
    with_records,
    without_records,
)
from ferry.app.store.rules import Guard
from ferry.app.store.snapshot import Snapshot, fields_at
from ferry.app.store.transaction import Transaction
from ferry.app.store.trees import Entry
from ferry.app.transact import transact
from ferry.worker.git.trees import tree_of
from ferry.worker.observe.logs import log
from ferry.worker.pipeline import Pipeline
from ferry.worker.settings import ORIGIN
from ferry.writes import Caller

MAX_WAIT_S = 60.0
DRY_RUN = "dry_run"
_CURLS_OWN = "application/x-www-form-urlencoded"  # the default of `curl -d`, whatever the body is
_ROUNDS = 5
_MOST_FILES = 1000  # that a dry run names


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """
    The result of a write, without its commit.

    Attributes:
        status: HTTP status.
        body: The answer without ``commit``, as JSON.
        headers: Headers of the answer.
        sheet: The sheet of the record in the body, if it has one.
    """

    status: int = 200
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    sheet: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """
    What came of a write.

    Attributes:
        change: Its result.
        commit: Its commit; None if it changed nothing.
        stands_in: A commit that contains the result in any case.
        is_replayed: Whether an earlier request with the same key made it.
    """

    change: Change
    commit: str | None
    stands_in: str
    is_replayed: bool = False


def record_sent(*also: str) -> Record:
    """
    Return the JSON object in the body of the current request.

    Args:
        also: Other media types that are accepted, the preferred one first. Without any, the type is checked
            only where no token is needed: any web page can make a browser send text and forms.

    Raises:
        Problem: 415 for a body of another type.
        InvalidJsonError: It is not a JSON object.
    """
    body = request.get_data()  # first, so that a body that is too large is refused as such
    types, is_open = [*also, "application/json"], services().open_access
    silent = ("",) if is_open else ("", _CURLS_OWN)
    if (also or is_open) and request.mimetype not in (*types, *silent):
        raise Problem(
            415,
            "media-type-unsupported",
            f"The body is {request.mimetype[:80]}.",
            f"Send it with the header Content-Type: {types[0]}.",
            headers={"Accept-Patch" if request.method == "PATCH" else "Accept-Post": ", ".join(types)},
        )
    return read_record(body)


def write(actor: Caller, about: Provenance, change: Callable[[Transaction], Change]) -> Response:
    """
    Make *change* in one commit, and answer.

    If the ``Idempotency-Key`` was used before, repeat that answer and change nothing. If the request says
    ``dry_run=true``, answer what would happen, and write nothing.

    Args:
        actor: Who writes.
        about: The description of the commit.
        change: Stages the changes. Called under the write lock, and again outside of it if records must be
            evaluated in a child process, which takes too long for the lock.

    Raises:
        StoreError, Problem: What *change* raised. Nothing is changed then.
    """
    with open_transaction():
        if is_dry_run():
            return _tried(actor, change)
        made = committed(actor, about, change)
    return answer(made.change, made.commit, stands_in=made.stands_in, replayed=made.is_replayed)


def committed(
    actor: Caller, about: Provenance, change: Callable[[Transaction], Change], *, part: int = 0
) -> Made:
    """
    Make *change* in one commit, or find the commit that a request with the same key has made.

    Args:
        part: Number of the commit in a request that makes several, each of which is made once.

    Raises:
        StoreError, Problem: As for ``write``.
    """
    for _ in range(_ROUNDS):
        try:
            return _write(actor, about, change, keyed_write(actor.name, part))
        except NotEvaluatedError:
            _rehearse(actor, change)
    raise BusyError("What the write needs was changed each time while it was prepared.")


def is_dry_run() -> bool:
    """
    Whether the current request asks what a write would do.

    Raises:
        Problem: 400 if ``dry_run`` is neither true nor false.
    """
    wanted = request.args.get(DRY_RUN, "false")
    if wanted not in ("true", "false"):
        detail = f"{DRY_RUN} is {wanted[:40]!r}."
        raise Problem(400, "query-invalid", detail, "Send true or false.", parameter=DRY_RUN)
    return wanted == "true"


@contextmanager
def open_transaction() -> Iterator[None]:
    """
    Refuse extensions' transactions in the block: they would wait for the write turn that this request holds.
    """
    g.has_open_transaction = True
    try:
        yield
    finally:
        g.has_open_transaction = False


def guard_of(actor: Caller, extension: str | None = None) -> Guard | None:
    """
    Return the rules that apply to a write by *actor*; None if there are none.

    Args:
        extension: Name of the extension that makes the write; its code counts against the limit too.
    """
    built = services()
    if not built.rules and extension is None:
        return None
    return Guard(rules=built.rules, caller=actor, extension=extension)


def evaluations() -> Evaluations:
    """
    Return the current request's results from child processes.
    """
    if "evaluations" not in g:
        g.evaluations = Evaluations(at_once=False)
    return cast(Evaluations, g.evaluations)


def _tried(actor: Caller, change: Callable[[Transaction], Change]) -> Response:
    """
    Answer what *change* would do. The answer has no ``ETag`` and no ``Location``: nothing has that version.
    """
    with services().store.trial(evaluations(), guard_of(actor)) as transaction:
        done = change(transaction)
    g.read_from = transaction.parent
    files = list(transaction.changed_files())
    body = {**done.body, "commit": None, "dry_run": True}
    body["files"] = [each.as_json() for each in files[:_MOST_FILES]]
    return jsonify({**body, "more_files": len(files) - _MOST_FILES} if len(files) > _MOST_FILES else body)


def _rehearse(actor: Caller, change: Callable[[Transaction], Change]) -> None:
    try:
        with services().store.rehearsal(evaluations(), guard_of(actor)) as transaction:
            change(transaction)
    except BusyError:
        raise
    except (StoreError, Problem):
        pass  # the branch may have moved: under the lock the change decides again whether to raise it


def _write(
    actor: Caller, about: Provenance, change: Callable[[Transaction], Change], keyed: KeyedWrite | None
) -> Made:
    store = services().idempotency
    trailers = [*about.trailers, *([(TRAILER, keyed.name)] if keyed else [])]
    kept, place = None, None
    with transact(
        services().store, services().push_queue, about.message,
        author=about.author, trailers=trailers, evaluations=evaluations(), guard=guard_of(actor),
    ) as transaction:  # fmt: skip
        kept = store.recall(keyed, transaction.parent) if keyed else None
        if kept is None:
            done = change(transaction)
            current_app.json.dumps(done.body)  # refuses what JSON cannot hold before the commit
            if keyed:
                place = store.begin(keyed, kept_of(done), base=transaction.base)
        else:
            done = repeated(kept, transaction.parent, partial(_done_by, kept.commit, actor, change))
    if kept:
        return Made(change=done, commit=kept.commit, stands_in=transaction.parent, is_replayed=True)
    if place:
        store.finish(place, transaction.commit)
    return Made(change=done, commit=transaction.commit, stands_in=transaction.parent)


def kept_of(done: Change) -> dict[str, Any]:
    """
    Return the part of an answer that is stored: everything but the content of records.
    """
    etag = done.headers.get("ETag", "").strip('"')
    return {**asdict(done), "body": without_records(to_json(done.body), etag)}


def repeated(kept: StoredAnswer, stands: str, redo: Callable[[], Change]) -> Change:
    """
    Return the stored answer, with its records read from the repository.

    Args:
        stands: The commit to read them from if the request made none.
        redo: Rebuilds the answer of a commit whose stored answer is lost.
    """
    if kept.answer is None:
        return redo()
    repository = services().pipeline.repository
    snapshot = Snapshot.of(repository, kept.commit or stands)

    def read(sheet: str, version: str) -> dict[str, Any]:
        entry = Entry("blob", version)
        return cast(dict[str, Any], to_json(fields_at(snapshot.objects, entry, snapshot.sheet(sheet))))

    found = Change(**kept.answer)
    try:
        return replace(found, body=with_records(found.body, found.sheet, read))
    except (StoreError, GitsheetsError):  # the sheet no longer exists: run the request again
        if kept.commit is None:
            raise
        return redo()


def _done_by(commit: str | None, actor: Caller, change: Callable[[Transaction], Change]) -> Change:
    """
    Return the answer of the request that made *commit*, after a power cut has lost the stored one.

    Raises:
        KeyReusedError: *change* is not what that commit did.
    """
    store = services().store
    try:
        with store.repeat(str(commit), guard_of(actor)) as transaction:
            done = change(transaction)
            if transaction.tree() == tree_of(services().pipeline.repository.objects, str(commit)):
                return done
    except (StoreError, Problem) as exc:
        raise KeyReusedError from exc
    raise KeyReusedError


def keyed_write(actor: str, part: int = 0) -> KeyedWrite | None:
    """
    Return the current request's ``Idempotency-Key``, with what was sent under it; None without one.

    Args:
        part: Number of the commit, in a request that makes several.

    Raises:
        InvalidKeyError: It is not a key.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    # Conditions belong to the request too: the same body under another If-Match is a different request.
    parts = [
        request.method,
        request.full_path,
        *(request.headers.get(n, "") for n in ("If-Match", "If-None-Match")),
    ]
    whole = KeyedWrite.of(actor, key, "\0".join(parts).encode() + b"\0" + request.get_data())
    return whole.part(part) if part else whole


def answer(change: Change, commit: str | None, *, stands_in: str, replayed: bool = False) -> Response:
    """
    Answer a write; waits for the remote first if the request asks for it.

    Args:
        stands_in: A commit that contains the write's result, if it made none.
    """
    built, waits_s, where = services(), _wait_s(), commit or stands_in
    dumps = current_app.json.dumps

    def finish(arrived: bool) -> tuple[int, bytes]:
        body = {**change.body, "commit": commit and {"hash": commit, "push": _states(built.pipeline, where)}}
        return change.status if arrived else 202, f"{dumps(body, separators=(',', ':'))}\n".encode()

    def happened() -> bool:
        return _has_arrived(built.pipeline, where)

    later = waits_s is not None and leave(Waiting(happened=happened, timeout_s=waits_s, finish=finish))
    arrived = later or waits_s is None or _awaited(happened, waits_s)
    status, text = finish(arrived)
    response = Response(text, status, change.headers, content_type="application/json")
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    if _preferred() is not None:
        response.headers["Preference-Applied"] = "wait"
    return response


def _awaited(happened: Callable[[], bool], timeout_s: float) -> bool:
    try:
        return services().arrivals.wait(happened, timeout_s, is_gone=client_is_gone)
    except Exception as exc:  # noqa: BLE001
        # As below: a lack of memory or threads for the wait must not become an error.
        log().warning("write.not_waited_for", error=str(exc))
        return False


def _states(pipeline: Pipeline, commit: str) -> dict[str, str]:
    try:
        return commit_states(pipeline, commit)
    except Exception as exc:  # noqa: BLE001
        # The commit is durable, and an error would invite a second write.
        log().warning("write.state_unknown", commit=commit, error=str(exc))
        return dict.fromkeys(pipeline.settings.remotes, "pending")


def _wait_s() -> float | None:
    """
    Return how long to wait for the remote, in seconds; None for not at all.
    """
    preferred, settings = _preferred(), services().pipeline.settings
    if preferred is not None:
        return min(preferred, MAX_WAIT_S)
    return settings.push_timeout_s if settings.data_push_mode == "sync" else None


def _preferred() -> float | None:
    """
    Return the seconds in ``Prefer: wait=N`` (RFC 7240), or None; by the RFC, a malformed one is ignored.
    """
    seconds = preference("wait") or ""
    return float(seconds[:6]) if seconds.isdecimal() and seconds.isascii() else None


def _has_arrived(pipeline: Pipeline, commit: str) -> bool:
    """
    Whether origin has *commit*, or every mirror if there is no origin.
    """
    remotes = pipeline.settings.remotes
    awaited = [ORIGIN] if ORIGIN in remotes else list(remotes)
    states = _states(pipeline, commit)
    return all(states[remote] == "pushed" for remote in awaited)


def client_is_gone() -> bool:
    """
    Whether the client has closed the connection of the current request.
    """
    connection = request.environ.get("gunicorn.socket") or request.environ.get("werkzeug.socket")
    if type(connection) is not socket.socket:
        return False  # TLS, or a server that does not provide the socket
    try:
        readable, _, _ = select.select([connection], [], [], 0)
        return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):
        return True
