"""
Rendering a record to its path and its text, as gitsheets does, or to the error.

A plain sheet's record is rendered in this process, by functions that run no code of the declaration. Every
other record is rendered in a child process, by gitsheets in a transaction that is never committed:
expressions, contracts, sorts and markdown may cost more than a process that answers requests can afford.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gitsheets

from ferry.app.errors import InvalidRecordError
from ferry.app.records.codec import Record
from ferry.app.sheets.declarations import unusable
from ferry.app.sheets.evaluation import Evaluations, run_apart
from ferry.app.sheets.schema_cost import is_cheap_for
from ferry.app.sheets.sheet import Sheet
from ferry.app.sheets.sorting import in_order
from ferry.worker.process.apart import OverrunError
from ferry.worker.records import markdown

Rendered = tuple[str, str, Record]

_VARIANT = "/variant"
_TOO_DEEP = "RuntimeLimit"  # gitsheets' engine's name for it
_LONGEST_PATH = 8192  # characters beyond the record's own; a path that a checkout can hold has 1,024
_CALLED = re.compile(r"(?<![\w.])(\w+)\s*\(")  # the name of a function, which gitsheets lists as a field


class Renderer:
    """
    Renders records of one commit's sheets.

    Args:
        git_dir: The bare repository.
        commit: Full object name of the commit that declares the sheets.
        declarations: Object name of its ``.gitsheets``, which identifies the declarations.
        root: The directory of the tree that holds ``.gitsheets`` and the sheets.
        evaluations: Results from child processes, and whether to compute more.
    """

    def __init__(
        self, git_dir: str, commit: str, declarations: str, root: str, evaluations: Evaluations
    ) -> None:
        self._git_dir = git_dir
        self._commit = commit
        self._declarations = declarations
        self._root = root
        self._evaluations = evaluations
        self._valid: frozenset[str] = frozenset()

    def expect(self, sheet: Sheet, records: Sequence[Record]) -> None:
        """
        Validate *records* of a plain sheet at once, which takes a tenth of the time of one by one.

        ``render`` then knows those that are valid, and validates the others again for their errors.
        """
        texts = list(map(repr, records))
        if sheet.schema is None or not is_cheap_for(sheet.schema, max(texts, key=len, default="")):
            return
        try:
            issues = gitsheets.validate_batch(sheet.schema, list(records))
        except (gitsheets.GitsheetsError, OverflowError, ValueError, TypeError):
            return  # one of them cannot be validated at all
        self._valid = frozenset(text for text, found in zip(texts, issues, strict=True) if not found)

    def render(
        self, sheet: Sheet, record: Record, before: Record | None = None, stays: str | None = None
    ) -> Rendered:
        """
        Return the record's path within its sheet, its text, and its fields as parsed from the text.

        Args:
            before: The record that it replaces. A ``nan`` in it may stay, although JSON Schema has no number
                for it. If either the title or the body of a markdown record changed, the other one follows.
            stays: The path of *before*, which the record may keep although a new record could not have it.

        Raises:
            gitsheets.ValidationError: The record breaks the schema.
            gitsheets.PathTemplateError: Its fields make no path.
            gitsheets.ConfigError: The sheet's declaration cannot be used.
            SheetConfigError: The declaration exceeds its limit.
            InvalidRecordError: The record exceeds its limit, by its own size.
            NotEvaluatedError: It must be rendered outside of the write lock.
            OverflowError, TypeError, ValueError: TOML cannot hold the record.
        """
        written = repr(record)
        is_valid = written in self._valid
        is_cheap = is_valid or (sheet.is_plain and is_cheap_for(sheet.schema, written))
        if is_cheap and in_order(record, sheet.sorts)[1]:
            return _rendered(sheet, record) if is_valid else _settled(_plain, sheet, record, before, stays)
        path, text = self._apart(
            sheet, ("renders", record, before, stays),
            _render_apart, self._git_dir, self._commit, self._root, sheet, record, before, stays,
        )  # fmt: skip
        return path, text, _stored(sheet, text)

    def path(self, sheet: Sheet, record: Record) -> str:
        """
        Return the path that the record's fields make within its sheet.

        Raises:
            gitsheets.GitsheetsError: They make no path.
            SheetConfigError, NotEvaluatedError: As for ``render``.
            OverflowError, TypeError, ValueError: TOML cannot hold the record.
        """
        if sheet.names is not None:
            return sheet.names.path(record)
        return str(self._apart(sheet, ("makes", record), _path_apart, sheet.path, record))

    def _apart(
        self, sheet: Sheet, question: tuple[object, ...], function: Callable[..., Any], *arguments: Any
    ) -> Any:
        key = None if sheet.is_bounded else (self._declarations, sheet.name)
        try:
            return self._evaluations.answer(
                (self._declarations, sheet.name, *question), lambda: run_apart(key, function, *arguments)
            )
        except OverrunError as exc:
            if key:
                raise unusable(sheet.name, exc) from exc
            raise InvalidRecordError(f"The record cannot be rendered: {exc}.") from exc


def _settled(
    render: Callable[[Sheet, Record], Rendered],
    sheet: Sheet,
    record: Record,
    before: Record | None,
    stays: str | None,
) -> Rendered:
    """
    Return what *render* makes of *record*, which replaces *before*.
    """
    try:
        return render(sheet, record)
    except gitsheets.PathTemplateError as exc:
        if stays is not None and before is not None and _same_path(sheet, record, before):
            somewhere = _variant(sheet, "stays", {**sheet.config, "path": "x"})
            return stays, *render(somewhere, record)[1:]
        if exc.code == "path_render_failed" and _is_to_blame(sheet, record):
            raise gitsheets.ConfigError(str(exc)) from exc
        raise
    except gitsheets.ValidationError as exc:
        wrong = [issue for issue in exc.issues or () if not _stood(issue["path"], record, before)]
        if wrong or not exc.issues:
            exc.issues = wrong
            raise
        unchecked = {key: sheet.config[key] for key in sheet.config if key not in ("schema", "implements")}
        return render(_variant(sheet, "unchecked", unchecked), record)


def _plain(sheet: Sheet, record: Record) -> Rendered:
    if sheet.schema is not None:
        [issues] = gitsheets.validate_batch(sheet.schema, [record])
        if issues:
            error = gitsheets.ValidationError("the record breaks the schema")
            error.issues = issues
            raise error
    return _rendered(sheet, record)


def _rendered(sheet: Sheet, record: Record) -> Rendered:
    """
    Return what a valid record of a plain sheet becomes.
    """
    [text] = gitsheets.serialize_records([in_order(record, sheet.sorts)[0]])
    [stored] = gitsheets.parse_records([text])
    assert sheet.names  # noqa: S101 - narrows a type: a plain sheet has them, and so have its variants
    return sheet.names.path(stored), text, stored


def _stored(sheet: Sheet, text: str) -> Record:
    """
    Return the fields of the record with this *text*.
    """
    if sheet.body_field:
        return markdown.parse(text, sheet.body_field)
    return dict(gitsheets.parse_records([text])[0])


def _variant(sheet: Sheet, what: str, config: Mapping[str, Any]) -> Sheet:
    """
    Return *sheet* with another declaration, for use in a transaction that is never committed.
    """
    # The slash keeps the name apart from those of the repository's sheets.
    name = f"{sheet.name}/{what}{_VARIANT}"
    return replace(sheet, name=name, path=config["path"], schema=config.get("schema"), config=config)


def _is_to_blame(sheet: Sheet, record: Mapping[str, Any]) -> bool:
    """
    Whether the path template, not *record*, is the reason that gitsheets makes no path.

    gitsheets reports both the same way. The template is the reason if every field that it names holds text:
    an expression that fails then fails for any record.
    """
    if sheet.names is not None:
        return False
    names = set(gitsheets.template_field_names(sheet.path)) - set(_CALLED.findall(sheet.path))
    return all(isinstance(record.get(name), str) and record[name] for name in names)


def _same_path(sheet: Sheet, record: Record, before: Record) -> bool:
    """
    Whether the fields that make a record's path are the same in both.
    """
    if sheet.names is not None:
        names = set(sheet.names.fields)
    else:
        names = {name.partition(".")[0] for name in gitsheets.template_field_names(sheet.path)}
    return all(name in record and record[name] == before.get(name) for name in names)


def _stood(path: Sequence[str | int], record: Record, before: Record | None) -> bool:
    """
    Whether *record* has at *path* the ``nan`` or infinity that *before* has there.
    """
    new, old = _at(record, path), _at(before, path)
    return isinstance(new, float) and not math.isfinite(new) and repr(new) == repr(old)


def _at(value: Any, path: Sequence[str | int]) -> Any:
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and str(part).isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


# --- What follows runs in a child process ---


def _path_apart(template: str, record: Record) -> str:
    try:
        path = str(gitsheets.render_paths_batch(template, [record])[0])
    except gitsheets.PathTemplateError as exc:
        _check_recursion(exc)
        raise
    _check_length(path, record)
    return path


def _check_recursion(error: Exception) -> None:
    if _TOO_DEEP in str(error):
        raise OverrunError("its expression never stops calling itself") from error


def _check_length(path: str, record: Record) -> None:
    if len(path) > _LONGEST_PATH + len(repr(record)):
        raise OverrunError(f"its expression makes a path of {len(path)} characters")


def _render_apart(
    git_dir: str,
    commit: str,
    root: str,
    sheet: Sheet,
    record: Record,
    before: Record | None,
    stays: str | None,
) -> tuple[str, str]:
    core = _Core(git_dir, commit, root)
    try:
        if before is not None and sheet.title_field:
            record = core.with_title(sheet, record, before)
        path, text, _ = _settled(core.render, sheet, record, before, stays)
        _check_length(path, record)
        return path, text
    except (gitsheets.PathTemplateError, gitsheets.ConfigError) as exc:
        _check_recursion(exc)
        raise
    finally:
        core.close()


class _Core:
    """
    A gitsheets transaction that is never committed; for the thread that made it.
    """

    def __init__(self, git_dir: str, commit: str, root: str) -> None:
        self._root = root
        self._core = gitsheets.CoreTransaction.begin(git_dir, "never finished", 0, 0, commit)
        self._open: set[str] = set()

    def close(self) -> None:
        """
        Discard the transaction.
        """
        self._core.discard()

    def render(self, sheet: Sheet, record: Record) -> Rendered:
        """
        Return the record's path, its text, and its fields as they are read from that.
        """
        if sheet.sorts:
            # gitsheets sorts a sorted list in linear time, and an unsorted one in quadratic time.
            unsorted = {key: value for key, value in sheet.config.items() if key != "fields"}
            self._prepare(_variant(sheet, "unsorted", unsorted), record)
            record, _ = in_order(record, sheet.sorts)
        path, text = self._prepare(sheet, record)
        # The candidate's own record has the body and the title as they were given.
        return path, text, _stored(sheet, text)

    def _prepare(self, sheet: Sheet, record: Record) -> tuple[str, str]:
        if sheet.name not in self._open:
            declared = posixpath.normpath(posixpath.join(self._root, sheet.config_path))
            if sheet.name.endswith(_VARIANT):
                [declaration] = gitsheets.serialize_records([{"gitsheet": dict(sheet.config)}])
                self._core.write_file(declared, declaration)
            self._core.open_sheet(sheet.name, declared, self._root, "")
            self._open.add(sheet.name)
        candidate = self._core.prepare_upsert(sheet.name, record)
        return candidate["path"], candidate["next_text"]

    def with_title(self, sheet: Sheet, record: Record, before: Record) -> Record:
        """
        Return *record* with its heading updated if the title changed, or its title if the body changed.
        """
        title, body = str(sheet.title_field), str(sheet.body_field)
        changed = {name for name in (title, body) if record.get(name) != before.get(name)}
        new_title, text = record.get(title), record.get(body)
        if len(changed) != 1 or not isinstance(text, str):
            return record  # gitsheets compares the two
        if title in changed:
            if not isinstance(new_title, str) or len(new_title.splitlines()) != 1:
                return record
            text = markdown.with_heading(text, new_title)
        found = markdown.heading(self._normal_body(sheet, text))
        rest = {name: value for name, value in record.items() if name != title}
        return {**rest, body: text, **({} if found is None else {title: found})}

    def _normal_body(self, sheet: Sheet, text: str) -> str:
        """
        Return the body as gitsheets stores it, with normalised markdown.
        """
        body = str(sheet.body_field)
        name = f"{body}_name"
        config = {
            "path": f"${{{{ {name} }}}}",
            "format": {key: value for key, value in sheet.config["format"].items() if key != "title"},
        }
        _, stored = self._prepare(_variant(sheet, "body", config), {name: "x", body: text})
        return markdown.split(stored)[1]
