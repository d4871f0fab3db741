"""
``ferry import`` and ``ferry export``: whole sheets in and out of the data repository on this machine.
"""

from __future__ import annotations

import getpass
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ferry.app.cli.context import open_services
from ferry.app.errors import ImportInvalidError, StoreError
from ferry.app.exchange.columns import Columns
from ferry.app.exchange.forms import FORMS, decoded, pieces
from ferry.app.exchange.importing import FEW, MODES, Counts, Import, Line, parts
from ferry.app.finding.fields import Fields
from ferry.app.records.codec import Record
from ferry.app.sheets.evaluation import Evaluations, NotEvaluatedError
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.listing import Listed
from ferry.app.store.rules import Guard
from ferry.app.store.snapshot import Snapshot
from ferry.app.transact import transact
from ferry.writes import Caller

if TYPE_CHECKING:
    from ferry.app.services import Services

_ROUNDS = 5
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_FORM = click.option(
    "--format", "name", type=click.Choice(list(FORMS)), help="Default: by the file's ending, else csv."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Author:
    """
    Who imports.
    """

    services: Services
    name: str

    def commit(self, sheet: str, change: Import) -> tuple[Counts, str | None]:
        """
        Make *change* in one commit; returns its counts, and its name if it changed something.

        Raises:
            StoreError: The store refuses it.
        """
        built, evaluations = self.services, Evaluations(at_once=False)
        guard = Guard(rules=built.rules, caller=Caller(self.name)) if built.rules else None
        address = f"{self.name}@users.noreply.{built.pipeline.settings.api_host}"
        trailers = [("Action", "records.import"), ("Actor", self.name), ("Subject-Type", sheet)]
        for _ in range(_ROUNDS):
            try:
                with transact(
                    built.store, built.push_queue, f"{self.name}: ferry import {sheet}",
                    author=(self.name, address), trailers=trailers, evaluations=evaluations, guard=guard,
                ) as transaction:  # fmt: skip
                    counts = change.stage(transaction)
                return counts, transaction.commit
            except NotEvaluatedError:
                with built.store.rehearsal(evaluations, guard) as rehearsed:
                    change.stage(rehearsed)
        sys.exit("ferry: others changed the same records each time; import again")

    def try_out(self, change: Import) -> Counts:
        """
        Return the counts of *change*, without writing anything.

        Raises:
            StoreError: The store refuses it.
        """
        built = self.services
        guard = Guard(rules=built.rules, caller=Caller(self.name)) if built.rules else None
        with built.store.trial(Evaluations(), guard) as transaction:
            return change.stage(transaction)


def _checked_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    name = value or getpass.getuser()
    if not _NAME.fullmatch(name):
        raise click.BadParameter(f"{name!r} is no name: use letters, digits, and . _ - between them")
    return name


@click.command("import")
@click.argument("sheet")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_FORM
@click.option(
    "--mode", type=click.Choice(MODES), default=MODES[0], show_default=True,
    help="create: each line is a new record. upsert: a line replaces the record at its path.",
)  # fmt: skip
@click.option(
    "--commit-every", "every", type=click.IntRange(1, 10_000), help="Lines of a commit. Default: all."
)
@click.option(
    "--author",
    metavar="NAME",
    callback=_checked_name,
    help="The commits' author. Default: the user's name.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be stored, and store nothing.")
def import_(
    sheet: str, file: Path, name: str | None, mode: str, every: int | None, author: str, *, dry_run: bool
) -> None:
    """
    Store each line of FILE, CSV or NDJSON, as a record of SHEET.

    In one commit, all or nothing; or in commits of --commit-every lines.
    """
    form = FORMS[name or _form_of(file)]
    with open_services() as built, _told(), _bar(file.stat().st_size, f"import {sheet}") as advance:
        snapshot = built.store.snapshot()
        columns = _columns(snapshot, snapshot.sheet(sheet))

        def lines() -> Iterator[Line]:
            with file.open("rb") as opened:
                yield from form.read(decoded(_counted(opened, advance)), columns)

        prepare = partial(Import, sheet=sheet, create_only=mode == "create")
        writer = _Author(services=built, name=author)
        if dry_run:
            counts = writer.try_out(prepare(lines=lines, keep=lambda tried: None, is_large=False))
            click.echo(f"{_said(counts)} would be stored; nothing was written")
            return
        prepare = partial(prepare, keep=built.store.keep, is_large=every is None or every > FEW)
        _import_parts(writer, sheet, lines, every, prepare)


def _import_parts(
    writer: _Author,
    sheet: str,
    lines: Callable[[], Iterator[Line]],
    every: int | None,
    prepare: Callable[..., Import],
) -> None:
    total, last = Counts(), None
    try:
        for part in parts(lines, every):
            counts, commit = writer.commit(sheet, prepare(lines=part))
            total.add(counts.as_json())
            last = commit or last
    finally:
        if last or total != Counts():
            click.echo(f"{_said(total)}{f'; commit {last}' if last else '; no commit was needed'}")


@click.command()
@click.argument("sheet")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@_FORM
@click.option("--at", metavar="COMMIT", help="A commit's full hash. Default: the branch's tip.")
def export(sheet: str, file: Path | None, name: str | None, at: str | None) -> None:
    """
    Write all records of SHEET, as CSV or NDJSON, to FILE or to the standard output.

    Reads one commit. Exit status: 1 if a file of the sheet is no record; it is left out.
    """
    form = FORMS[name or (_form_of(file) if file else "csv")]
    with open_services() as built, _told():
        if at is not None and not built.pipeline.repository.contains(at, built.pipeline.repository.head()):
            sys.exit(f"ferry: the branch has no commit {at!r}")
        snapshot = Snapshot.of(built.pipeline.repository, at or built.pipeline.repository.head())
        found = snapshot.sheet(sheet)
        unreadable: dict[str, str] = {}
        with _bar(sum(1 for _ in snapshot.files(found)), f"export {sheet}") as advance:
            read = partial(_records, partial(built.listing.parts, snapshot, found), unreadable, advance)
            _write(file, pieces(form.write(read, _columns(snapshot, found))))
    for path, fault in unreadable.items():
        click.echo(f"ferry: left out {path}: {fault}", err=True)
    sys.exit(1 if unreadable else 0)


def _records(
    parts: Callable[[], Iterator[Listed]], unreadable: dict[str, str], advance: Callable[[int], None]
) -> Iterator[Record]:
    for part in parts():
        unreadable.update(part.unreadable)
        for _, record in part.records:
            yield record
        advance(len(part.records) + len(part.unreadable))


def _write(file: Path | None, content: Iterable[bytes]) -> None:
    """
    Write *content* to *file*, which is there only when it is whole; or to the standard output.
    """
    if file is None:
        sys.stdout.buffer.writelines(content)
        sys.stdout.buffer.flush()
        return
    draft = file.with_name(f".{file.name}.part")
    try:
        with draft.open("wb") as opened:
            opened.writelines(content)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _counted(file: Iterable[bytes], advance: Callable[[int], None]) -> Iterator[bytes]:
    for line in file:
        advance(len(line))
        yield line


def _columns(snapshot: Snapshot, sheet: Sheet) -> Columns:
    return Columns(sheet, Fields.of(sheet, snapshot.contracts(sheet)))


def _form_of(file: Path) -> str:
    ending = file.suffix.removeprefix(".").lower()
    return {"jsonl": "ndjson"}.get(ending, ending if ending in FORMS else "csv")


def _said(counts: Counts) -> str:
    return f"{counts.created} created, {counts.updated} updated, {counts.unchanged} unchanged"


@contextmanager
def _bar(length: int, label: str) -> Iterator[Callable[[int], None]]:
    """
    Show on a terminal how much is done; more than *length* begins from the start, in a second pass.
    """
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


@contextmanager
def _told() -> Iterator[None]:
    """
    Turn what the store refuses into lines and exit status 1.
    """
    try:
        yield
    except ImportInvalidError as exc:
        for each in exc.errors:
            field = f" {each['field']}:" if "field" in each else ""
            click.echo(f"line {each['line']}:{field} {each['message']}", err=True)
        sys.exit("ferry: nothing of these lines' commit was stored; correct them, and import again")
    except StoreError as exc:
        sys.exit(f"ferry: {exc} {exc.hint}")
