"""
What Ferry's API promises, in memory: an independent reading of docs/reference/http.md.

A state maps sheet and path to a record, and each commit has its state. Nothing of
Ferry's is used here, so what both agree on is unlikely to be wrong in the same way.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import jsonschema_rs

Fields = dict[str, Any]
STATUS = {
    "unauthorized": 401, "scope-missing": 403, "sheet-not-found": 404, "record-not-found": 404,
    "attachment-not-found": 404, "commit-not-found": 404, "record-exists": 409, "precondition-failed": 412,
    "range-unsatisfiable": 416, "idempotency-key-reused": 422, "path-invalid": 422, "validation-failed": 422,
    "record-unreadable": 500, "cursor-invalid": 400, "limit-invalid": 400, "query-invalid": 400,
}  # fmt: skip


class Refused(Exception):
    """
    A request that must fail, and the codes that it may fail with: what is wrong first is not promised.
    """

    def __init__(self, *codes: str) -> None:
        super().__init__(*codes)
        self.codes = set(codes)


@dataclass(frozen=True)
class Sheet:
    """
    A sheet as it is declared, and the path that its template makes, field by field.
    """

    name: str
    root: str
    template: str
    fields: tuple[str, ...]
    prefix: str = ""
    is_deep: bool = False
    schema: Mapping[str, Any] | None = None
    extension: str = ".toml"

    def path(self, record: Fields) -> str:
        """
        Return the path that the fields make.
        """
        values = [record.get(name) for name in self.fields]
        if not all(isinstance(value, str) and (value or self.prefix) for value in values):
            raise Refused("path-invalid")
        if not self.is_deep and any("/" in str(value) for value in values):
            raise Refused("path-invalid")
        return self.prefix + "/".join(map(str, values))

    def place(self, path: str) -> str:
        """
        Return where what belongs to the record at *path* stands in the tree.
        """
        return path if self.root == "." else f"{self.root}/{path}"


@dataclass(frozen=True)
class Record:
    """
    One file of a sheet, with what is attached to it.

    Attributes:
        fields: None where the file is no record.
        version: Its ETag; "" until an answer has told it.
        is_ours: Whether Ferry has written the file: the same fields are the same bytes then.
    """

    fields: Fields | None
    version: str = ""
    attached: Mapping[str, bytes] = field(default_factory=dict)
    is_ours: bool = True


State = dict[tuple[str, str], Record]


@dataclass(frozen=True)
class Commit:
    """
    A commit of the branch, with what the tree holds there.
    """

    hash: str
    parents: tuple[str, ...]
    state: State


class Promises:
    """
    The branch as clients are told of it.
    """

    def __init__(self, sheets: Sequence[Sheet], first: str) -> None:
        self.sheets = {sheet.name: sheet for sheet in sheets}
        self.commits = {first: Commit(first, (), {})}
        self.tip = first
        self.pushed: dict[str, str] = {}  # by remote: the commit that it has, and all before that

    @property
    def state(self) -> State:
        """What stands at the tip."""
        return self.commits[self.tip].state

    def land(self, commit: str, state: State, *parents: str) -> None:
        """
        Put a commit on the branch.
        """
        self.commits[commit] = Commit(commit, parents or (self.tip,), state)
        self.tip = commit

    def ancestors(self, *tips: str) -> set[str]:
        """
        Return those commits and all before them.
        """
        found: set[str] = set()
        waiting = list(tips)
        while waiting:
            commit = waiting.pop()
            if commit not in found:
                found.add(commit)
                waiting += self.commits[commit].parents
        return found

    def push_states(self, commit: str) -> dict[str, str]:
        """
        Return for each remote whether it has *commit*.
        """
        return {
            remote: "pushed" if head and commit in self.ancestors(head) else "pending"
            for remote, head in self.pushed.items()
        }

    def history(self, sheet: str, path: str, tip: str) -> list[tuple[str, Record | None, Record | None]]:
        """
        Return the commits that changed a record's file, newest first, each with the file before and after.
        """
        found, commit = [], self.commits[tip]
        while True:
            here = commit.state.get((sheet, path))
            before = [self.commits[parent] for parent in commit.parents]
            same = [each for each in before if _version(each.state.get((sheet, path))) == _version(here)]
            if not same and (before or here):
                old = before[0].state.get((sheet, path)) if before else None
                found.append((commit.hash, old, here))
            if not before:
                return found
            commit = (same or before)[0]

    # --- Writes: each returns the state that it leaves, and the path of the record in it ---

    def put(
        self, state: State, sheet: Sheet, path: str | None, wish: Fields, *, is_new: bool = False
    ) -> tuple[State, str]:
        """
        Replace, create or move a record; without *path* at the one that its fields make.
        """
        if path is None and not is_new:
            path = sheet.path(adopt(wish, sheet.schema, None))
        old = None if path is None else state.get((sheet.name, path))
        fields = adopt(wish, sheet.schema, old and old.fields)
        return self._store(state, sheet, path, old, fields, is_new=is_new)

    def patch(self, state: State, sheet: Sheet, path: str, wish: Fields) -> tuple[State, str]:
        """
        Apply a JSON merge patch.
        """
        old = state.get((sheet.name, path))
        if old is None:
            raise Refused("record-not-found")
        if old.fields is None:
            raise Refused("record-unreadable")
        return self._store(state, sheet, path, old, merged(old.fields, wish, sheet.schema))

    def delete(self, state: State, sheet: Sheet, path: str) -> State:
        """
        Remove a record with all that is attached to it.
        """
        if (sheet.name, path) not in state:
            raise Refused("record-not-found")
        return {key: record for key, record in state.items() if key != (sheet.name, path)}

    def attach(
        self, state: State, sheet: Sheet, path: str, name: str, content: bytes | None
    ) -> tuple[State, bool]:
        """
        Store or, without *content*, remove an attachment; returns whether it is new, too.
        """
        record = state.get((sheet.name, path))
        if record is None:
            raise Refused("record-not-found")
        files = dict(record.attached)
        is_new = name not in files
        if content is None:
            if is_new:
                raise Refused("attachment-not-found")
            del files[name]
        else:
            place = f"{sheet.place(path)}/{name}"
            if name.endswith(sheet.extension) or not self._is_of(sheet, place):
                raise Refused("path-invalid")
            files[name] = content
        after = {**state, (sheet.name, path): replace(record, attached=files)}
        if content is not None and is_new:
            self.check_new(after, f"{sheet.place(path)}/{name}")
        return after, is_new

    def _store(
        self,
        state: State,
        sheet: Sheet,
        path: str | None,
        old: Record | None,
        fields: Fields,
        *,
        is_new: bool = False,
    ) -> tuple[State, str]:
        codes = set() if _is_storable(fields) else {"validation-failed"}
        if sheet.extension == ".md":
            fields, is_right = _as_markdown(fields, old and old.fields)
            codes |= set() if is_right else {"validation-failed"}
        if sheet.schema and not _is_valid(fields, sheet.schema):
            codes.add("validation-failed")
        target, codes = self._target(sheet, fields, codes)
        if codes:
            is_odd = not all(map(_is_fit, sheet.place(target).split("/")))
            raise Refused(*codes, *(["path-invalid"] if is_odd else []))
        stands = state.get((sheet.name, target))
        moves = path is not None and path != target
        if moves and old is None:
            raise Refused("path-invalid")
        after = dict(state)
        if moves:
            del after[sheet.name, str(path)]
        same = old is not None and old.is_ours and not moves and _exact(old.fields) == _exact(fields)
        attached = (old or stands or Record(None)).attached
        after[sheet.name, target] = Record(fields, old.version if old and same else "", attached)
        if stands is None:
            self.check_new(after, sheet.place(target) + sheet.extension)
            for name in attached:
                place = f"{sheet.place(target)}/{name}"
                if not self._is_of(sheet, place):
                    raise Refused("path-invalid")
                self.check_new(after, place)
        if stands is not None and (is_new or moves):
            raise Refused("record-exists")
        return after, target

    def _target(self, sheet: Sheet, fields: Fields, codes: set[str]) -> tuple[str, set[str]]:
        try:
            return sheet.path(fields), codes
        except Refused as exc:
            return "", codes | exc.codes

    def hides(self, sheet: Sheet, path: str) -> bool:
        """
        Whether the address of *path* is that of another record's history or attachments.
        """
        parts = path.split("/")
        return sheet.is_deep and (
            "attachments" in parts[1:][-2:] or (len(parts) > 1 and parts[-1] == "history")
        )

    def check_new(self, state: State, place: str) -> None:
        """
        Refuse a file at *place* that some checkout could not hold.
        """
        sheet, path = next(
            ((self.sheets[name], path) for name, path in state if self._file(name, path) == place),
            (None, "x"),
        )
        if sheet and (self.hides(sheet, path) or not self._is_of(sheet, place)):
            raise Refused("path-invalid")
        # What is attached to the record has a directory of its name, without the ending.
        if not all(map(_is_fit, place.split("/"))) or not all(map(_is_name, path.split("/"))):
            raise Refused("path-invalid")
        files, directories = self.places(state)
        if place in directories or any(up in files for up in _above(place)):
            raise Refused("path-invalid")
        everything = files | directories
        folds: dict[str, set[str]] = {}
        for each in everything:
            folds.setdefault(folded(each), set()).add(each.rpartition("/")[2])
        for each in (place, *_above(place)):
            twins = {other for other in folds[folded(each)] if other != each.rpartition("/")[2]}
            if twins:
                raise Refused("path-invalid")

    def places(self, state: State) -> tuple[set[str], set[str]]:
        """
        Return every file and every directory of the tree.
        """
        files = {f".gitsheets/{name}.toml" for name in self.sheets}
        for (name, path), record in state.items():
            files.add(self._file(name, path))
            files |= {f"{self.sheets[name].place(path)}/{each}" for each in record.attached}
        return files, {up for place in files for up in _above(place)}

    def _file(self, name: str, path: str) -> str:
        return self.sheets[name].place(path) + self.sheets[name].extension

    def _is_of(self, sheet: Sheet, place: str) -> bool:
        roots = [
            each for each in self.sheets.values() if each.root == "." or place.startswith(f"{each.root}/")
        ]
        return max(roots, key=lambda each: len(each.root.strip("."))) is sheet


def _version(record: Record | None) -> str | None:
    return record and record.version


def _above(place: str) -> list[str]:
    parts = place.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def folded(name: str) -> str:
    """
    Return *name* without case and Unicode form.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _is_name(part: str) -> bool:
    return not re.fullmatch(r"\.{0,2}|\.git|git~[0-9]", part, re.IGNORECASE)


def _is_fit(name: str) -> bool:
    """
    Whether each system can have a file of that name.
    """
    is_device = re.fullmatch(r"(con|aux|nul)(\..*)?", name, re.IGNORECASE)
    is_odd = re.search(r'[\x00-\x1f\x7f-\x9f<>:"|?*\\]|[. ]$', name)
    return bool(name) and _is_name(name) and not (is_device or is_odd) and len(name.encode()) <= 255


# --- Values ---


def adopt(value: Any, schema: Any, before: Any) -> Any:
    """
    Return JSON's *value* with the kinds of TOML, where *before* stood.
    """
    schema = schema if isinstance(schema, Mapping) else {}
    if isinstance(value, dict):
        if value.keys() == {"$date"} and not isinstance(before, dict):
            return datetime.fromisoformat(value["$date"]).astimezone(UTC)
        old = before if isinstance(before, dict) else {}
        parts = schema.get("properties", {})
        return {
            name: adopt(each, parts.get(name), old.get(name))
            for name, each in value.items()
            if each is not None
        }
    if isinstance(value, list):
        old_items = before if isinstance(before, list) else []
        return [
            adopt(each, None, old_items[min(n, len(old_items) - 1)] if old_items else None)
            for n, each in enumerate(value)
        ]
    if isinstance(value, bool) or before is True or before is False:
        before = None
    if type(value) is int and type(before) is float:
        if value == before:
            return before  # 0 in the place of -0.0
        as_float = float(value)
        return as_float if as_float == value or Decimal(repr(as_float)) == value else value
    wants_integer = type(before) is int or (before is None and schema.get("type") == "integer")
    if type(value) is float and wants_integer and value.is_integer() and repr(value) != "-0.0":
        whole = int(Decimal(repr(value)))
        return whole if -(2**63) <= whole < 2**63 else value
    if isinstance(value, str) and isinstance(before, datetime) and re.match(r"\d{4}-\d\d-\d\dT.*Z$", value):
        return datetime.fromisoformat(value).astimezone(UTC)
    if isinstance(value, str) and type(before) is float and value in ("nan", "inf", "-inf"):
        return float(value)
    return value


def merged(record: Any, patch: Any, schema: Any) -> Any:
    """
    Apply a JSON merge patch (RFC 7396).
    """
    is_date = isinstance(patch, dict) and patch.keys() == {"$date"} and not isinstance(record, dict)
    if not isinstance(patch, dict) or is_date:
        return adopt(patch, schema, record)
    parts = schema.get("properties", {}) if isinstance(schema, Mapping) else {}
    result = dict(record) if isinstance(record, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value, parts.get(name))
    return result


def shown(value: Any) -> Any:
    """
    Return what an answer shows of a value.
    """
    if isinstance(value, dict):
        return {name: shown(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shown(each) for each in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def exact(value: Any) -> str:
    """
    Return text that two JSON values share only where they are the same to the last digit and kind.
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name!r}: {exact(value[name])}" for name in sorted(value)) + "}"
    return f"[{', '.join(map(exact, value))}]" if isinstance(value, list) else repr(value)


_exact = exact


def _is_storable(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_storable, value.values()))
    if isinstance(value, list):
        return None not in value and all(map(_is_storable, value))
    return type(value) is not int or -(2**63) <= value < 2**63


def _is_valid(record: Fields, schema: Mapping[str, Any]) -> bool:
    return jsonschema_rs.validator_for(dict(schema), validate_formats=True).is_valid(shown(record))


def _as_markdown(record: Fields, before: Fields | None) -> tuple[Fields, bool]:
    """
    Make a page's title and its body's heading the same; returns whether that can be done.
    """
    body, title = record.get("body"), record.get("title")
    if not isinstance(body, str):
        return record, False
    found = re.search(r"^# (.+)$", body, re.MULTILINE)
    heading = found and found[1]
    old = before or {}
    changed = {name for name in ("title", "body") if record.get(name) != old.get(name)}
    if before is not None and changed == {"title"} and title is not None:
        body = body.replace(f"# {heading}", f"# {title}", 1) if heading else f"# {title}\n\n{body}"
        return {**record, "body": body}, True
    if before is not None and changed == {"body"}:
        title = heading or title
    return {**record, "title": title or heading}, title is None or title == heading


# --- Lists ---


def selected(
    records: Sequence[tuple[str, Fields]], filters: Sequence[tuple[str, str, str]], sort: str
) -> list[tuple[str, Fields]]:
    """
    Return the records that pass, sorted by path or by the field *sort*; a minus turns that round.
    """
    found = sorted(
        ((path, each) for path, each in records if all(_passes(each, *f) for f in filters)),
        key=lambda item: item[0],
    )
    name = sort.removeprefix("-")
    if name:
        having = [item for item in found if name in item[1]]
        having.sort(key=lambda item: item[1][name], reverse=sort.startswith("-"))
        found = [*having, *(item for item in found if name not in item[1])]
    return found


_COMPARES: Mapping[str, Callable[[Decimal, Decimal], bool]] = {
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}


_FINDS: Mapping[str, Callable[[str, str], bool]] = {
    "contains": lambda value, text: text in value,
    "startswith": lambda value, text: value.startswith(text),
}


def _passes(record: Fields, name: str, word: str, text: str) -> bool:
    value: Any = record
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    items = value if isinstance(value, list) else [value]
    if word == "exists":
        return (value is not None) == (text == "true")
    if word in _FINDS:
        return any(
            isinstance(each, (str, datetime)) and _FINDS[word](str(shown(each)), text) for each in items
        )
    if word in _COMPARES:
        return any(_is_number(each) and _COMPARES[word](Decimal(repr(each)), Decimal(text)) for each in items)
    wanted = text.split(",") if word == "in" else [text]
    equals = any(_equals(each, one) for each in items for one in wanted)
    return equals != (word == "ne")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and not math.isnan(value)


def _equals(value: Any, text: str) -> bool:
    if _is_number(value) and re.fullmatch(r"-?[0-9.]+(e[+-]?[0-9]+)?", text):
        return Decimal(repr(value)) == Decimal(text)
    if isinstance(value, bool):
        return str(value).lower() == text
    return isinstance(value, (str, float, datetime)) and str(shown(value)) == text
