"""
Random requests to a real Ferry, and each answer held against the promises and the OpenAPI document.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote, urlencode

from ferry.app import create_app
from tests.model.contract import Contract
from tests.model.promises import (
    STATUS,
    Fields,
    Promises,
    Record,
    Refused,
    Sheet,
    State,
    exact,
    selected,
    shown,
)
from tests.model.wishes import DECLARATIONS, FILES, SCOPES, SHEETS, Wishes
from tests.parts import Bare, sample

INSTANCES = 3
REMOTES = ("origin", "mirror")
OPERATIONS = ("create", "upsert", "upsert", "patch", "delete")
_AUDIT_EVERY = 50
_NO_COMMIT = "0" * 40
_STALE = '"' + "1" * 40 + '"'


class ModelError(AssertionError):
    """
    Ferry and the model do not agree; the text says how to see it again.
    """


@dataclass
class _Cursor:
    url: str
    template: str
    cursor: str
    limit: int
    rest: Sequence[Any]
    member: str


@dataclass
class _Kept:
    """A write that was made with an Idempotency-Key, and its answer."""

    method: str
    template: str
    url: str
    body: Any
    headers: dict[str, str]
    status: int
    answer: Fields


class Driver:
    """
    One repository, several instances of Ferry over it, and the model.

    Args:
        directory: An empty one, for the repository.
        seed: The same seed asks the same.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self.seed, self.steps = seed, 0
        self.random = Random(seed)  # noqa: S311
        self.wishes = Wishes(self.random)
        self.counts: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self._lines: deque[str] = deque(maxlen=15)
        self._cursors: list[_Cursor] = []
        self._kept: list[_Kept] = []
        self.bare = Bare.init(directory / "data.git")
        files = {f".gitsheets/{each.name}.toml": _declaration(each) for each in SHEETS}
        first = self._as_others(files, ())
        self.model = Promises(SHEETS, first)
        self.model.pushed = dict.fromkeys(REMOTES, "")
        env = {
            "CFP_DATA_REPO_PATH": str(self.bare.path),
            "CFP_REDIS_URL": "redis://127.0.0.1:1/0",
            "CFP_DATA_REMOTE": str(directory / "origin.git"),
            "CFP_DATA_MIRRORS": f"mirror={directory / 'mirror.git'}",
            "CFP_API_TOKENS": " ".join(_token(name) for name in SCOPES),
        }
        # As processes would be: what one of them remembers, the others do not know.
        self._clients = [create_app(env).test_client() for _ in range(INSTANCES)]
        self.contract = Contract(self._clients[0].get("/openapi.json").json)
        self._actions: list[tuple[str, int, Callable[[], None]]] = [
            ("create", 12, self._create),
            ("put", 14, self._put),
            ("patch", 14, self._patch),
            ("delete", 7, self._delete),
            ("attach", 8, self._attach),
            ("transaction", 8, self._transaction),
            ("repeat", 3, self._repeat),
            ("read", 10, self._read),
            ("list", 10, self._list),
            ("next page", 6, self._next_page),
            ("history", 5, self._history),
            ("attachment", 6, self._read_attachment),
            ("commits", 2, self._commits),
            ("others", 3, self._others),
            ("push", 1, self._push),
            ("events", 1, self._events),
            ("look", 1, self._look),
        ]

    def run(self, steps: int) -> None:
        """
        Make that many requests.

        Raises:
            ModelError: An answer is another than was promised.
        """
        kinds = [name for name, weight, _ in self._actions for _ in range(weight)]
        actions = {name: action for name, _, action in self._actions}
        try:
            while self.steps < steps:
                self.steps += 1
                kind = self.random.choice(kinds)
                self.counts[kind] += 1
                actions[kind]()
                if self.steps % _AUDIT_EVERY == 0:
                    self.audit()
            self.audit()
        except Exception as exc:  # whatever it is: the seed is told
            lines = "\n".join(self._lines)
            raise ModelError(
                f"seed {self.seed}, step {self.steps}: {exc!r}\nthe last requests:\n{lines}"
            ) from exc

    # --- Asking ---

    def _ask(self, method: str, template: str, url: str, headers: Mapping[str, str] = {}, **body: Any) -> Any:
        """
        Ask any instance, and hold the answer against the OpenAPI document.
        """
        number = self.random.randrange(INSTANCES)
        given = " ".join(f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers.items())
        data = (
            f" -d {shlex.quote(json.dumps(body['json']))}" if "json" in body else f" {body}" if body else ""
        )
        self._lines.append(f"  {self.steps}: curl -X {method} $API_{number}{url} {given}{data}")
        answer = self._clients[number].open(url, method=method, headers=dict(headers), **body)
        self._lines[-1] += f"  -> {answer.status_code} {answer.text[:200] if not answer.is_streamed else ''}"
        self.statuses[answer.status_code] += 1
        faults = [] if method == "HEAD" else self.contract.faults(method, template, answer)
        assert not faults, f"{method} {url}: {answer.status_code}: {faults}"
        assert answer.headers.get("X-Request-Id"), "no X-Request-Id"
        return answer

    def _write(
        self,
        method: str,
        template: str,
        url: str,
        plan: Callable[[State], tuple[State, Callable[[Any], State]]],
        *,
        sheets: Sequence[str],
        version: str | None = None,
        **body: Any,
    ) -> None:
        """
        Make one write, and check that it did what *plan* says.

        Args:
            plan: Returns the state that the write leaves, and what reads the answer: it checks it and
                returns the state with the versions told there.
            sheets: Those that it writes.
            version: What stands there, for conditions.
        """
        headers, codes = self._token(sheets)
        condition, holds = self._condition(version) if method != "TRANSACT" else ({}, True)
        headers |= condition
        if not holds:
            codes.add("precondition-failed")
        before = self.model.state
        try:
            after, read = plan(before)
        except Refused as exc:
            codes |= exc.codes
            # Where the fields make no path, no version stands there.
            codes |= {"precondition-failed"} if condition and method == "POST" else set()
            after, read = before, None
        has_key = self.random.random() < 0.2
        if has_key:
            headers["Idempotency-Key"] = f"{self.seed}-{self.steps}"
        method = "POST" if method == "TRANSACT" else method
        answer = self._ask(method, template, url, headers, **body)
        if codes:
            self._expect_refusal(answer, codes)
            return
        assert answer.status_code < 300, f"refused: {answer.text}"
        assert read is not None
        after = read(answer)
        self._expect_commit(answer.json["commit"], before, after)
        if has_key:
            self._kept.append(_Kept(method, template, url, body, headers, answer.status_code, answer.json))

    def _token(self, sheets: Sequence[str]) -> tuple[dict[str, str], set[str]]:
        chance = self.random.random()
        if chance < 0.01:
            return {}, {"unauthorized"}
        name = "all" if chance < 0.85 else self.random.choice(list(SCOPES))
        scope = SCOPES[name]
        may = scope is None or set(sheets) <= scope
        return {"Authorization": f"Bearer {name}"}, set() if may else {"scope-missing"}

    def _condition(self, version: str | None) -> tuple[dict[str, str], bool]:
        chance, there = self.random.random(), version is not None
        if chance > 0.2:
            return {}, True
        quoted = f'"{version}"' if there else _STALE
        conditions: list[tuple[str, str, bool]] = [
            ("If-Match", quoted, there), ("If-Match", "*", there), ("If-Match", f"{_STALE}, {quoted}", there),
            ("If-Match", _STALE, False), ("If-Match", f"W/{quoted}", False),
            ("If-None-Match", quoted, not there), ("If-None-Match", "*", not there),
            ("If-None-Match", _STALE, True), ("If-None-Match", f"W/{quoted}", not there),
        ]  # fmt: skip
        name, value, holds = self.random.choice(conditions[:3] if chance < 0.08 and there else conditions)
        return {name: value}, holds

    def _expect_refusal(self, answer: Any, codes: set[str]) -> None:
        assert answer.content_type == "application/problem+json", f"should be {codes}: {answer.text[:500]}"
        code = answer.json["code"]
        assert code in codes, f"should be {codes}: {answer.text}"
        assert answer.status_code == answer.json["status"] == STATUS[code], answer.text

    def _expect_commit(self, commit: Any, before: State, after: State) -> None:
        """
        Check that a commit was made if anything changed, and put it on the model's branch.
        """
        if _facts(before) == _facts(after):
            assert commit is None, "a commit for nothing"
            return
        assert commit is not None, "no commit, although something changed"
        assert commit["push"] == dict.fromkeys(REMOTES, "pending")
        assert commit["hash"] not in self.model.commits
        self.model.land(commit["hash"], after)

    def _sheet(self) -> Sheet:
        return self.random.choice(SHEETS)

    def _path(self, sheet: Sheet, state: State | None = None, *, there: float = 0.85) -> str:
        """
        Return the path of a record that stands there, or maybe not.
        """
        state = self.model.state if state is None else state
        found = sorted(path for name, path in state if name == sheet.name)
        if found and self.random.random() < there:
            return self.random.choice(found)
        path = self.wishes.path(sheet)
        return "a" if self.model.hides(sheet, path) else path

    # --- Writes ---

    def _create(self) -> None:
        sheet, version = self._sheet(), None
        wish = self.wishes.record(sheet)
        with suppress(Refused):
            version = _version(self.model.state, sheet, sheet.path(wish))

        def plan(state: State) -> tuple[State, Callable[[Any], State]]:
            after, path = self.model.put(state, sheet, None, wish, is_new=True)
            return after, lambda answer: self._read_written(answer, state, after, sheet, path, None)

        records = _records(sheet)
        self._write("POST", records, records, plan, sheets=[sheet.name], version=version, json=wish)

    def _put(self) -> None:
        sheet = self._sheet()
        path = self._path(sheet)
        old = self.model.state.get((sheet.name, path))
        wish = self.wishes.record(sheet, path if self.random.random() < 0.8 else None)
        if old and old.fields is not None and self.random.random() < 0.2:
            wish = shown(old.fields)  # what was read and sent back
        self._write_record("PUT", sheet, path, wish, lambda state: self.model.put(state, sheet, path, wish))

    def _patch(self) -> None:
        sheet = self._sheet()
        path, wish = self._path(sheet), self.wishes.patch(sheet)
        self._write_record(
            "PATCH", sheet, path, wish, lambda state: self.model.patch(state, sheet, path, wish)
        )

    def _write_record(
        self, method: str, sheet: Sheet, path: str, wish: Fields, change: Callable[[State], tuple[State, str]]
    ) -> None:
        def plan(state: State) -> tuple[State, Callable[[Any], State]]:
            after, new_path = change(state)
            return after, lambda answer: self._read_written(answer, state, after, sheet, new_path, path)

        version = _version(self.model.state, sheet, path)
        url, template = _url(sheet, path), _records(sheet) + "/{path}"
        self._write(method, template, url, plan, sheets=[sheet.name], version=version, json=wish)

    def _read_written(
        self, answer: Any, before: State, after: State, sheet: Sheet, path: str, asked_for: str | None
    ) -> State:
        created = (sheet.name, path) not in before and (sheet.name, asked_for) not in before
        assert answer.status_code == (201 if created else 200), f"created: {created}"
        location = answer.headers.get("Location")
        assert location == (_url(sheet, path) if created or path != asked_for else None), location
        return self._learn(answer.json, answer.headers["ETag"], before, after, sheet, path)

    def _learn(self, told: Fields, etag: str, before: State, after: State, sheet: Sheet, path: str) -> State:
        """
        Check what a write says that it stored; returns *after* with the version told.
        """
        key, record = (sheet.name, path), after[sheet.name, path]
        assert told["path"] == path, f"should be at {path!r}"
        _same(told["record"], shown(record.fields))
        version = etag.strip('"')
        assert record.version in ("", version), "another version of the same content"
        old = before.get(key)
        if old and old.is_ours and exact(old.fields) != exact(record.fields):
            assert version != old.version, "the same version of another content"
        return {**after, key: replace(record, version=version)}

    def _delete(self) -> None:
        sheet = self._sheet()
        path = self._path(sheet)

        def plan(state: State) -> tuple[State, Callable[[Any], State]]:
            after = self.model.delete(state, sheet, path)

            def read(answer: Any) -> State:
                _same({**answer.json, "commit": None}, {"path": path, "record": None, "commit": None})
                return after

            return after, read

        version = _version(self.model.state, sheet, path)
        template = _records(sheet) + "/{path}"
        self._write("DELETE", template, _url(sheet, path), plan, sheets=[sheet.name], version=version)

    def _attach(self) -> None:
        sheet = self._sheet()
        path, name = self._path(sheet), self.random.choice(FILES)
        content = self.random.choice([b"", b"one", b"two" * 100])
        wish = None if self.random.random() < 0.25 else content

        def plan(state: State) -> tuple[State, Callable[[Any], State]]:
            after, is_new = self.model.attach(state, sheet, path, name, wish)

            def read(answer: Any) -> State:
                assert answer.status_code == (201 if wish is not None and is_new else 200)
                assert answer.json["path"] == path
                if wish is not None:
                    assert answer.json["attachment"]["bytes"] == len(wish)
                    assert answer.headers["ETag"] == f'"{_blob(wish)}"'
                    assert answer.headers.get("Location") == (url if is_new else None)
                return after

            return after, read

        stands = self.model.state.get((sheet.name, path), Record(None)).attached.get(name)
        version = None if stands is None else _blob(stands)
        url = f"{_url(sheet, path)}/attachments/{quote(name)}"
        template = _records(sheet) + "/{path}/attachments/{name}"
        method, body = ("DELETE", {}) if wish is None else ("PUT", {"data": wish})
        self._write(method, template, url, plan, sheets=[sheet.name], version=version, **body)

    def _transaction(self) -> None:
        state, operations = self.model.state, []
        for _ in range(self.random.choice((1, 2, 2, 3, 5))):
            sheet = self._sheet()
            path, op = self._path(sheet, state), self.random.choice(OPERATIONS)
            operation: Fields = {"op": op, "sheet": sheet.name}
            if op in ("patch", "delete") or (op == "upsert" and self.random.random() < 0.5):
                operation["path"] = path
            if op != "delete":
                is_patch = op == "patch"
                operation["record"] = (
                    self.wishes.patch(sheet) if is_patch else self.wishes.record(sheet, path)
                )
            version = _version(state, sheet, path)
            if "path" in operation and version and self.random.random() < 0.2:
                operation["if_match"] = self.random.choice([f'"{version}"', _STALE])
            operations.append(operation)
            with suppress(Refused):  # later operations are about what the earlier ones leave
                state, _ = self._applied(state, sheet, operation)

        def plan(state: State) -> tuple[State, Callable[[Any], State]]:
            before, after, staged = state, state, []
            codes: set[str] = set()
            for operation in operations:
                sheet = self.model.sheets[operation["sheet"]]
                try:
                    after, path = self._applied(after, sheet, operation)
                except Refused as exc:
                    codes |= exc.codes  # which operation is refused first is not promised
                else:
                    staged.append((sheet, path, after))
            if codes:
                raise Refused(*codes)
            return after, lambda answer: self._read_results(answer.json, operations, before, staged)

        sheets = [each["sheet"] for each in operations]
        body = {"operations": operations} | ({"message": "why"} if self.random.random() < 0.5 else {})
        self._write("TRANSACT", "/api/transactions", "/api/transactions", plan, sheets=sheets, json=body)

    def _applied(self, state: State, sheet: Sheet, operation: Fields) -> tuple[State, str]:
        path, record = operation.get("path"), operation.get("record", {})
        wanted = operation.get("if_match", "").strip('"')
        codes = {"precondition-failed"} if wanted and wanted != _version(state, sheet, str(path)) else set()
        try:
            match operation["op"]:
                case "delete":
                    found = self.model.delete(state, sheet, str(path)), str(path)
                case "patch":
                    found = self.model.patch(state, sheet, str(path), record)
                case "create":
                    found = self.model.put(state, sheet, None, record, is_new=True)
                case _:
                    found = self.model.put(state, sheet, path, record)
        except Refused as exc:
            raise Refused(*exc.codes, *codes) from exc
        if codes:
            raise Refused(*codes)
        return found

    def _read_results(
        self,
        answer: Fields,
        operations: Sequence[Fields],
        before: State,
        staged: Sequence[tuple[Sheet, str, State]],
    ) -> State:
        versions: dict[tuple[str, str], str] = {}
        assert len(answer["results"]) == len(operations)
        for told, operation, (sheet, path, after) in zip(answer["results"], operations, staged, strict=True):
            assert (told["op"], told["sheet"]) == (operation["op"], sheet.name)
            if operation["op"] == "delete":
                assert (told["path"], told["record"]) == (path, None)
                continue
            self._learn(told, told["etag"], before, after, sheet, path)
            versions[sheet.name, path] = told["etag"].strip('"')
        final = staged[-1][2]
        return {key: replace(each, version=versions.get(key, each.version)) for key, each in final.items()}

    def _repeat(self) -> None:
        """
        Send a write again that was made with an Idempotency-Key, or another one with its key.
        """
        if not self._kept:
            return
        kept = self.random.choice(self._kept)
        if self.random.random() < 0.2:
            body = {"json": {"another": "body"}} if "json" in kept.body else {"data": b"another"}
            if kept.method != "DELETE":
                answer = self._ask(kept.method, kept.template, kept.url, kept.headers, **body)
                code = answer.json["code"]
                # What makes no transaction is refused before its key is looked up.
                assert code in ("idempotency-key-reused", "transaction-invalid"), answer.text
            return
        answer = self._ask(kept.method, kept.template, kept.url, kept.headers, **kept.body)
        assert answer.status_code == kept.status, "a repeated write is answered otherwise"
        assert answer.headers.get("Idempotent-Replayed") == "true"
        commit = kept.answer["commit"]
        if commit:
            commit = {"hash": commit["hash"], "push": self.model.push_states(commit["hash"])}
        _same(answer.json, {**kept.answer, "commit": commit})

    # --- Reads ---

    def _at(self) -> tuple[dict[str, str], State | None]:
        """
        Return a query for the present or a moment of the past, and what stood there; None: no such commit.
        """
        chance = self.random.random()
        if chance < 0.7:
            return {}, self.model.state
        if chance < 0.72:
            return {"at": _NO_COMMIT}, None
        commit = self.random.choice(list(self.model.commits))
        return {"at": commit}, self.model.commits[commit].state

    def _read(self) -> None:
        sheet = self._sheet()
        query, state = self._at()
        path = self._path(sheet, state)
        record = state.get((sheet.name, path)) if state is not None else None
        codes = {"commit-not-found"} if state is None else {"record-not-found"} if record is None else set()
        if record and record.fields is None:
            codes = {"record-unreadable"}
        condition, holds = self._condition(record.version if record else None)
        url = _url(sheet, path) + (f"?{urlencode(query)}" if query else "")
        method = "HEAD" if self.random.random() < 0.1 else "GET"
        answer = self._ask(method, _records(sheet) + "/{path}", url, condition)
        if method == "HEAD":
            assert not answer.data
            return
        if codes or not self._is_met(answer, condition, holds, codes):
            self._expect_refusal(answer, codes)
        elif answer.status_code == 200:
            assert record is not None
            assert answer.headers["ETag"] == f'"{record.version}"'
            _same(answer.json, {"path": path, "record": shown(record.fields)})

    def _is_met(self, answer: Any, condition: Mapping[str, str], holds: bool, codes: set[str]) -> bool:
        """
        Whether the conditions of a read hold; where If-None-Match does not, the answer is 304.
        """
        if "If-None-Match" in condition:
            assert answer.status_code == (200 if holds else 304)
            return True
        if not holds:
            codes.add("precondition-failed")
        return holds

    def _list(self) -> None:
        sheet = self._sheet()
        filters, sort, field = self.wishes.query(sheet)
        query, state = self._at()
        limit = self.random.choice([1, 2, 3, 10, 50, 1000])
        pairs = [
            (f"{_asked(sheet, name)}[{word}]" if word else _asked(sheet, name), text)
            for name, word, text in filters
        ]
        pairs += [
            *query.items(),
            *([("sort", sort)] if sort else []),
            *([("fields", _asked(sheet, field))] if field else []),
        ]
        url = f"{_records(sheet)}?{urlencode(pairs)}"
        answer = self._ask("GET", _records(sheet), f"{url}&limit={limit}")
        if state is None:
            self._expect_refusal(answer, {"commit-not-found"})
            return
        records = [(path, each.fields) for (name, path), each in state.items() if name == sheet.name]
        broken = sorted(path for path, fields in records if fields is None)
        found = selected([(path, fields) for path, fields in records if fields is not None], filters, sort)
        wanted = [{"path": path, "record": shown(_part(fields, field))} for path, fields in found]
        told = [each["path"] for each in answer.json.get("unreadable", [])]
        assert told == broken, f"unreadable should be {broken}"
        self._expect_page(answer, _Cursor(url, _records(sheet), "", limit, wanted, "records"))

    def _expect_page(self, answer: Any, asked: _Cursor) -> None:
        assert answer.status_code == 200, answer.text
        wanted = asked.rest[: asked.limit]
        found = answer.json[asked.member]
        if asked.member != "records":
            found = [each["hash"] for each in found]
        _same(found, list(wanted))
        rest, cursor = asked.rest[asked.limit :], answer.json["next_cursor"]
        assert bool(cursor) == bool(rest), "a page too many, or too few"
        if cursor:
            self._cursors.append(replace(asked, cursor=cursor, rest=rest))
            del self._cursors[:-20]

    def _next_page(self) -> None:
        """
        Go on with a list, however much was written since; a cursor of another list is refused.
        """
        if not self._cursors:
            return
        asked = self.random.choice(self._cursors)
        url = f"{asked.url}{'&' if '?' in asked.url else '?'}cursor={quote(asked.cursor)}&limit={asked.limit}"
        if self.random.random() < 0.1:
            other = self.random.choice([each for each in SHEETS if _records(each) != asked.template])
            url = f"{_records(other)}?{url.partition('?')[2]}"
            answer = self._ask("GET", _records(other), url)
            self._expect_refusal(answer, {"cursor-invalid", "query-invalid"})
            return
        self._expect_page(self._ask("GET", asked.template, url), asked)

    def _history(self) -> None:
        sheet = self._sheet()
        path, limit = self._path(sheet), self.random.choice([1, 3, 100])
        query = {} if self.random.random() < 0.7 else {"at": self.random.choice(list(self.model.commits))}
        changes = self.model.history(sheet.name, path, query.get("at", self.model.tip))
        url = f"{_url(sheet, path)}/history?{urlencode(query)}"
        answer = self._ask("GET", _records(sheet) + "/{path}/history", f"{url}&limit={limit}")
        if not changes:
            # The address may be that of an attachment, which takes no limit.
            is_attachment = self.model.hides(sheet, f"{path}/history")
            self._expect_refusal(
                answer, {"record-not-found"} | ({"query-invalid"} if is_attachment else set())
            )
            return
        asked = _Cursor(
            url, _records(sheet) + "/{path}/history", "", limit, [each[0] for each in changes], "history"
        )
        self._expect_page(answer, asked)
        for told, (_, before, after) in zip(answer.json["history"], changes, strict=False):
            if after and after.fields is None:
                assert told["unreadable"]
                assert told["patch"] == []
            else:
                _same(_patched(before, told["patch"]), shown(after.fields) if after else None)

    def _read_attachment(self) -> None:
        sheet = self._sheet()
        query, state = self._at()
        state = self.model.state if state is None else state
        path = self._path(sheet, state)
        record = state.get((sheet.name, path))
        address = f"{_url(sheet, path)}/attachments"
        suffix = f"?{urlencode(query)}" if query and query["at"] != _NO_COMMIT else ""
        if self.random.random() < 0.3:
            answer = self._ask("GET", _records(sheet) + "/{path}/attachments", address + suffix)
            if record is None:
                self._expect_refusal(answer, {"record-not-found"})
                return
            told = [(each["name"], each["bytes"], each["etag"]) for each in answer.json["attachments"]]
            assert told == sorted((n, len(c), f'"{_blob(c)}"') for n, c in record.attached.items()), told
            return
        name = self.random.choice(sorted(record.attached) if record and record.attached else FILES)
        content = record.attached.get(name) if record else None
        condition, holds = self._condition(None if content is None else _blob(content))
        ranges = self.random.choice([None, (0, 0), (1, 2), (5, 1000), (1000, 2000), "bytes=2-1", "lines=1-2"])
        headers = dict(condition)
        if ranges:
            headers["Range"] = ranges if isinstance(ranges, str) else f"bytes={ranges[0]}-{ranges[1]}"
        answer = self._ask(
            "GET", _records(sheet) + "/{path}/attachments/{name}", f"{address}/{quote(name)}{suffix}", headers
        )
        codes = set() if content is not None else {"attachment-not-found", "record-not-found"}
        if content is None or (("If-Match" in condition) and not holds):
            self._expect_refusal(answer, codes | ({"precondition-failed"} if content is not None else set()))
        elif not holds:
            assert answer.status_code == 304
        elif isinstance(ranges, tuple):
            first, last = ranges
            if first >= len(content):
                self._expect_refusal(answer, {"range-unsatisfiable"})
                assert answer.headers["Content-Range"] == f"bytes */{len(content)}"
            else:
                assert (answer.status_code, answer.data) == (206, content[first : last + 1])
        else:
            assert (answer.status_code, answer.data) == (200, content)

    def _commits(self) -> None:
        url = "/api/commits"
        if self.random.random() < 0.5:
            commit = self.random.choice(list(self.model.commits))
            answer = self._ask("GET", "/api/commits/{hash}", f"{url}/{commit}")
            assert answer.json["hash"] == commit
            assert tuple(answer.json["parents"]) == self.model.commits[commit].parents
            assert answer.json["push"] == self.model.push_states(commit)
            return
        limit = self.random.choice([1, 7, 1000])
        answer = self._ask("GET", url, f"{url}?limit={limit}")
        told = [each["hash"] for each in answer.json["commits"]]
        assert len(told) == min(limit, len(self.model.commits))
        self._expect_order(list(reversed(told)))
        assert told[0] == self.model.tip

    def _expect_order(self, commits: Sequence[str]) -> None:
        """
        Check that each commit stands after those of its parents that are told.
        """
        places = {commit: number for number, commit in enumerate(commits)}
        assert len(places) == len(commits), "a commit is told twice"
        for commit, place in places.items():
            for parent in self.model.commits[commit].parents:
                assert places.get(parent, -1) < place, f"{commit} stands before its parent {parent}"

    def _events(self) -> None:
        """
        Listen from an old position on, go away in the midst of it, and come back.
        """
        old = self.random.choice(list(self.model.commits))
        missing = self.model.ancestors(self.model.tip) - self.model.ancestors(old)
        ids, told = self._listen(f":{old},origin:,mirror:", len(missing))
        assert set(told) == missing, "events are missing, or were not asked for"
        self._expect_order(told)
        if told:
            place = self.random.randrange(len(told))
            _, rest = self._listen(ids[place], len(told) - place - 1)
            assert set(told[: place + 1]) | set(rest) == missing
            assert len(rest) == len(told) - place - 1

    def _listen(self, position: str, wanted: int) -> tuple[list[str], list[str]]:
        answer = self._ask("GET", "/api/events", "/api/events", {"Last-Event-ID": position})
        ids, told, has_state = [], [], False
        for chunk in answer.response:
            for event in _text(chunk).strip().split("\n\n"):
                lines = dict(line.partition(": ")[::2] for line in event.split("\n"))
                if lines.get("event") == "commit":
                    ids.append(lines["id"])
                    told.append(json.loads(lines["data"])["hash"])
                assert lines.get("event") != "reset", "events are reset"
                has_state = has_state or lines.get("event") == "state"
                assert "nothing new" not in lines.get("", ""), f"{len(told)} of {wanted} commits are told"
            if has_state and len(told) >= wanted:
                break
        answer.close()
        return ids, told

    def _look(self) -> None:
        """
        Ask for what does not change, and for where the pushes stand.
        """
        for url in ("/api/health", "/api/health/ready", "/api/sheets"):
            assert self._ask("GET", url, url).status_code == 200
        sheet = self._sheet()
        answer = self._ask("GET", "/api/sheets/{sheet}", f"/api/sheets/{sheet.name}")
        assert answer.json["schema"] == sheet.schema
        text = self._clients[0].get("/metrics").text
        for remote, head in self.model.pushed.items():
            pending = len(self.model.commits) - (len(self.model.ancestors(head)) if head else 0)
            assert sample(text, "ferry_unpushed_commits", remote=remote) == pending, remote

    # --- Others ---

    def _push(self) -> None:
        """
        Do as a worker that has pushed.
        """
        remote = self.random.choice(REMOTES)
        self.bare.git("update-ref", f"refs/remotes/{remote}/main", self.model.tip)
        self.model.pushed[remote] = self.model.tip

    def _others(self) -> None:
        """
        Commit by git, as people do; sometimes on an older commit, joined by a merge.
        """
        sheet = self._sheet()
        path = self._path(sheet, there=0.4)
        key, file = (sheet.name, path), sheet.place(path) + sheet.extension
        is_merge = self.random.random() < 0.4
        commits = list(self.model.commits)
        old = self.random.choice(commits[-10:]) if is_merge else self.model.tip
        stands = self.model.state.get(key)
        if self.model.commits[old].state.get(key) != stands or (is_merge and stands and stands.attached):
            return
        text, fields = _foreign(sheet, path, self.random)
        after = {
            **self.model.state,
            key: Record(fields, _blob(text), stands.attached if stands else {}, is_ours=False),
        }
        try:
            if stands is None:
                self.model.check_new(after, file)
        except Refused:
            return
        made = self._as_others({file: text}, (old,) if not is_merge else (old, self.model.tip))
        if is_merge:
            side = self.bare.git("rev-parse", f"{made}^2")
            self.model.commits[side] = replace(
                self.model.commits[old], hash=side, parents=(old,),
                state={**self.model.commits[old].state, key: after[key]},
            )  # fmt: skip
            self.model.land(made, after, self.model.tip, side)
        else:
            self.model.land(made, after)

    def _as_others(self, files: Mapping[str, bytes], parents: Sequence[str]) -> str:
        """
        Commit *files* on the first of *parents*, and merge that into the second if there is one.
        """
        edits = b"".join(
            b"M 100644 inline %s\ndata %d\n%s\n" % (name.encode(), len(text), text)
            for name, text in files.items()
        )
        who = b"committer Stranger <stranger@example.org> %d +0000\ndata 3\nwhy\n" % int(time.time())
        tip = [f"from {each}\n".encode() for each in parents]
        if len(parents) < 2:
            stream = b"commit refs/heads/main\n" + who + b"".join(tip) + edits
        else:
            stream = b"commit refs/tmp/side\nmark :1\n" + who + tip[0] + edits
            stream += b"commit refs/heads/main\n" + who + tip[1] + b"merge :1\n" + edits
        self.bare.feed("fast-import", "--quiet", content=stream)
        if len(parents) == 2:
            self.bare.git("update-ref", "-d", "refs/tmp/side")
        return str(self.bare.head())

    def audit(self) -> None:
        """
        Compare the tree with the model, file by file, and the list of each sheet with both.
        """
        found = {}
        for line in self.bare.git("ls-tree", "-r", "-z", "--full-tree", "main").split("\0"):
            if line and "\t.gitsheets/" not in line:
                found[line.partition("\t")[2]] = line.split()[2]
        wanted = {}
        for (name, path), record in self.model.state.items():
            sheet = self.model.sheets[name]
            wanted[sheet.place(path) + sheet.extension] = record.version
            wanted |= {f"{sheet.place(path)}/{each}": _blob(data) for each, data in record.attached.items()}
        assert found == wanted, f"git has otherwise: {sorted(found.items() ^ wanted.items())}"
        assert self.bare.head() == self.model.tip
        for sheet in SHEETS:
            answer = self._ask("GET", _records(sheet), f"{_records(sheet)}?limit=1000")
            told = {each["path"]: exact(each["record"]) for each in answer.json["records"]}
            told |= {each["path"]: "unreadable" for each in answer.json.get("unreadable", [])}
            assert told == {
                path: exact(shown(each.fields)) if each.fields is not None else "unreadable"
                for (name, path), each in self.model.state.items()
                if name == sheet.name
            }
            assert all(a["path"] < b["path"] for a, b in pairwise(answer.json["records"]))


def _records(sheet: Sheet) -> str:
    return f"/api/sheets/{sheet.name}/records"


def _url(sheet: Sheet, path: str) -> str:
    return f"{_records(sheet)}/{quote(path)}"


def _version(state: State, sheet: Sheet, path: str) -> str | None:
    record = state.get((sheet.name, path))
    return record.version if record else None


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content), usedforsecurity=False).hexdigest()


def _token(name: str) -> str:
    scope = SCOPES[name]
    pair = f"{name}:{hashlib.sha256(name.encode()).hexdigest()}"
    return pair if scope is None else f"{pair}:{'+'.join(sorted(scope))}"


def _declaration(sheet: Sheet) -> bytes:
    head = f"[gitsheet]\nroot = '{sheet.root}'\npath = '{sheet.template}'\n"
    return (head + DECLARATIONS.get(sheet.name, "")).encode()


def _facts(state: State) -> dict[Any, Any]:
    return {key: (record.version, record.attached) for key, record in state.items()}


def _same(found: Any, wanted: Any) -> None:
    assert exact(found) == exact(wanted), f"is {found!r}\nshould be {wanted!r}"


def _asked(sheet: Sheet, field: str) -> str:
    """
    Return how a query names *field*: with a dot where the schema allows it and does not declare it.
    """
    return f".{field}" if sheet.name == "people" and field == "x" else field


def _part(fields: Fields, field: str) -> Fields:
    return fields if not field else {field: fields[field]} if field in fields else {}


def _text(chunk: Any) -> str:
    return chunk.decode() if isinstance(chunk, bytes) else str(chunk)


def _foreign(sheet: Sheet, path: str, random: Random) -> tuple[bytes, Fields | None]:
    """
    Return a file as people write it, and its fields; None where it is no record.
    """
    if random.random() < 0.2:
        text = f"no record = = {random.randrange(9)}\n"
        return (f"+++\n{text}+++\n" if sheet.extension == ".md" else text).encode(), None
    values = path.removeprefix(sheet.prefix)
    names = [values] if sheet.is_deep else values.split("/")
    fields: Fields = dict(zip(sheet.fields, names, strict=True))
    if sheet.name == "people":
        fields["name"] = "Dan"
    fields["y"] = random.choice([1, 2.0, True, "z"])
    lines = [f"{name}   =   {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    text = "\n".join(["# by hand", *lines, ""])
    if sheet.extension != ".md":
        return text.encode(), fields
    return f"+++\n{text}+++\n\n# Four\n\nHand.\n".encode(), fields | {"body": "# Four\n\nHand."}


def _patched(before: Record | None, patch: Sequence[Fields]) -> Any:
    """
    Apply a JSON patch (RFC 6902) of additions, removals and replacements to what an answer shows of a record.
    """
    root = {"": json.loads(json.dumps(shown(before.fields)))} if before else {}
    for operation in patch:
        parts = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")]
        into: Any = root
        for part in parts[:-1]:
            into = into[int(part)] if isinstance(into, list) else into[part]
        last: Any = parts[-1]
        if isinstance(into, list):
            last = len(into) if last == "-" else int(last)
        if operation["op"] == "remove":
            del into[last]
        elif operation["op"] == "add" and isinstance(into, list):
            into.insert(last, operation["value"])
        else:
            assert operation["op"] in ("add", "replace"), operation
            into[last] = operation["value"]
    return root.get("")
