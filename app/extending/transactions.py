"""
Transactions of extensions: one commit, which answers the request that it is made for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from flask import Response, current_app, g, has_request_context, request

from ferry.app.api.conditions import require
from ferry.app.api.reading import snapshot_of
from ferry.app.api.records import changed
from ferry.app.api.writing import Change, answer, guard_of, kept_of, keyed_write, open_transaction, repeated
from ferry.app.errors import KeyReusedError
from ferry.app.problems import Problem
from ferry.app.provenance import provenance, subject_trailers
from ferry.app.services import services
from ferry.app.sheets.evaluation import Evaluations
from ferry.app.store import transaction as store
from ferry.app.store.idempotency import TRAILER, StoredAnswer
from ferry.app.store.rules import Guard
from ferry.app.store.staged import Staged
from ferry.app.store.staging import Staging
from ferry.app.store.upserts import Written
from ferry.app.transact import transact
from ferry.worker.git.trees import tree_of
from ferry.writes import Caller, Reader, Record, Transaction

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _final(
    verb: Callable[Concatenate[OpenTransaction, _P], _T],
) -> Callable[Concatenate[OpenTransaction, _P], _T]:
    """
    Let nothing be committed after *verb* has failed, for what it has staged by then may be half of a change.
    """

    @wraps(verb)
    def tried(opened: OpenTransaction, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return verb(opened, *args, **kwargs)
        except Exception as exc:
            opened.failure = opened.failure or exc
            raise

    return tried


class OpenTransaction(Transaction):
    """
    A transaction of the store, as an extension sees it.

    Attributes:
        finished: Answers the request with a status, once the block has ended.
        failure: What the first change that failed has raised.

    Args:
        inner: The store's own.
        trailers: Those of the commit, which get its subjects.
    """

    def __init__(self, inner: store.Transaction, trailers: list[tuple[str, str]]) -> None:
        self._inner = inner
        self._trailers = trailers
        self._results: list[dict[str, Any]] = []
        self._subjects: set[tuple[str, str]] = set()
        self._is_conditional = True
        self.finished: Callable[[int], Response] | None = None
        self.failure: Exception | None = None

    def read(self, sheet: str, path: str) -> Record:
        return self._inner.staged.read(sheet, path)

    def exists(self, sheet: str, path: str) -> bool:
        return self._inner.staged.exists(sheet, path)

    def records(self, sheet: str, /, **filters: Any) -> list[Record]:
        return self._inner.staged.records(sheet, **filters)

    @_final
    def create(self, sheet: str, record: Mapping[str, Any]) -> Record:
        self._require(sheet, self._inner.path_of(sheet, dict(record)))
        return self._stored("create", sheet, self._inner.create(sheet, dict(record)))

    @_final
    def put(self, sheet: str, path: str, record: Mapping[str, Any]) -> Record:
        self._require(sheet, path)
        return self._stored("put", sheet, self._inner.put(sheet, path, dict(record)))

    @_final
    def upsert(self, sheet: str, record: Mapping[str, Any]) -> Record:
        self._require(sheet, self._inner.path_of(sheet, dict(record)))
        return self._stored("upsert", sheet, self._inner.upsert(sheet, dict(record)))

    @_final
    def patch(self, sheet: str, path: str, patch: Mapping[str, Any]) -> Record:
        self._require(sheet, path)
        return self._stored("patch", sheet, self._inner.patch(sheet, path, dict(patch)))

    @_final
    def delete(self, sheet: str, path: str) -> None:
        self._require(sheet, path)
        self._inner.delete(sheet, path)
        self._note("delete", sheet, path, record=None)

    @_final
    def attach(self, sheet: str, path: str, name: str, content: bytes) -> None:
        self._require(sheet, path)
        blob, _ = self._inner.attach(sheet, path, name, content)
        self._note("attach", sheet, path, attachment=name, etag=f'"{blob}"')

    def answer(self, status: int = 200) -> Response:
        if self.finished is None:
            raise RuntimeError("answer() comes after the block of the transaction")
        return self.finished(status)

    def change(self) -> Change:
        """
        Return what the block did.

        Raises:
            Exception: A change has failed, although the block went on; this is what it raised.
        """
        if self.failure is not None:
            raise self.failure
        done = Change(body={"results": self._results})
        current_app.json.dumps(done.body)  # refuses what JSON cannot hold before the commit
        return done

    def _require(self, sheet: str, path: str | None) -> None:
        """
        Check the conditions of the request, which are about the first record that it writes.
        """
        if self._is_conditional:
            self._is_conditional = False
            version = None if path is None else self._inner.record_version(sheet, path)
            require(version, f"The record {path!r}")

    def _stored(self, op: str, sheet: str, written: Written) -> Record:
        self._note(op, sheet, etag=f'"{written.version}"', **changed(sheet, written).body)
        return Record(written.path, written.record)

    def _note(self, op: str, sheet: str, path: str, **more: Any) -> None:
        self._results.append({"op": op, "sheet": sheet, "path": path, **more})
        if (sheet, path) not in self._subjects:
            self._subjects.add((sheet, path))
            self._trailers += subject_trailers([(sheet, path)])


class RequestHost:
    """
    Reads records and opens transactions for extensions, each for the request that is being answered.
    """

    def snapshot(self) -> Reader:
        """
        Return the records as the last commit has them.

        Raises:
            StoreError: The repository cannot be read.
            RuntimeError: No request is being answered.
        """
        _require_request()
        found = snapshot_of()
        return Staged(found, Staging(found, found.commit or ""), services().listing, {})

    @contextmanager
    def transact(self, extension: str, message: str, caller: Caller | None) -> Iterator[Transaction]:
        """
        Hold the write lock for the block, and commit what it changes.

        If the request's ``Idempotency-Key`` was used before, the block runs on what it saw then, and changes
        nothing.

        Raises:
            StoreError, Problem: The store refuses the change, or the request's headers are wrong.
            RuntimeError: The request cannot have this transaction.
        """
        _require_request()
        if g.get("has_open_transaction"):
            raise RuntimeError("a transaction of this request is open already")
        if services().pipeline.settings.is_replica:
            hint = "Send the request to the primary, by a method other than GET."
            raise Problem(403, "read-only-replica", "This is a replica, which reads only.", hint)
        with open_transaction():
            yield from _transact(extension, message, caller or Caller(extension))


def _require_request() -> None:
    if not has_request_context():
        raise RuntimeError("transact and snapshot are for functions that answer a request to the API")


def _transact(extension: str, message: str, actor: Caller) -> Iterator[Transaction]:
    built, keyed = services(), keyed_write(actor.name)
    route = str(request.url_rule or "")
    about = provenance(actor, f"extension.{extension}", [], summary=message, route=route)
    trailers = [*about.trailers, *([(TRAILER, keyed.name)] if keyed else [])]
    if keyed and g.get("has_used_its_key"):  # the key would find the first one's answer, and drop this one
        raise RuntimeError("a request with an Idempotency-Key can have one transaction, and this is another")
    guard = guard_of(actor, extension)
    kept, place = None, None
    with ExitStack() as turn:
        inner = turn.enter_context(
            transact(
                built.store, built.push_queue, about.message,
                author=about.author, trailers=trailers, guard=guard,
            )
        )  # fmt: skip
        opened = OpenTransaction(inner, trailers)
        g.has_used_its_key = True
        kept = built.idempotency.recall(keyed, inner.parent) if keyed else None
        if kept is None:
            yield opened
            done = opened.change()
            if keyed:
                place = built.idempotency.begin(keyed, kept_of(done), base=inner.base)
    if kept is not None:
        yield from _again(kept, inner.parent, guard)
        return
    if place:
        built.idempotency.finish(place, inner.commit)
    commit, stands = inner.commit, inner.parent
    opened.finished = lambda status: answer(replace(done, status=status), commit, stands_in=stands)


def _again(kept: StoredAnswer, stands: str, guard: Guard | None) -> Iterator[Transaction]:
    """
    Run the block on what it saw the first time, so that it comes to its answer, which is the stored one.
    """
    store = services().store
    past = store.repeat(kept.commit, guard) if kept.commit else store.rehearsal(Evaluations(), guard)
    with past as inner:
        opened = OpenTransaction(inner, [])
        try:
            yield opened
        except Exception as exc:
            # The write was made and answered; what the block thinks of it today changes nothing.
            if kept.answer is None:
                raise KeyReusedError from exc

        def redo() -> Change:
            objects = services().pipeline.repository.objects
            if kept.commit is None or inner.tree() != tree_of(objects, kept.commit):
                raise KeyReusedError
            return opened.change()

        done = repeated(kept, stands, redo)
    opened.finished = lambda status: answer(
        replace(done, status=status), kept.commit, stands_in=stands, replayed=True
    )
