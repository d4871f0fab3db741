"""
That the store's commits are, byte for byte, those that gitsheets itself would make.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gitsheets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferry.app.dev.sample import make_sample_repository
from ferry.app.errors import RecordExistsError
from ferry.app.records.codec import Record
from ferry.app.store import transaction as transaction_module
from ferry.app.store.store import Store
from ferry.app.store.transaction import Transaction
from ferry.worker.files.places import state_directory
from ferry.worker.git.refs import read_ref
from ferry.worker.git.repository import Repository
from tests.parts import Bare

AUTHOR = ("Ann é", "ann@example.org")
TRAILERS = [("Action", "record.put"), ("Subject-Path", "a b/ü")]
MESSAGE = "ann: PUT /x\n\nwhy not"
NOW = 1_700_000_000
MAIN = "refs/heads/main"

SHEETS = {
    "flat": "root = 'flat'\npath = '${{ slug }}'\n[gitsheet.schema]\nrequired = ['slug']",
    "deep": "root = './deep/er/'\npath = '${{ a }}/${{ slug }}'",
    "beside": "path = 'flat-${{ slug }}'",
    "clever": "root = 'clever'\npath = '${{ slug.toUpperCase() }}'",
    "sorted": "root = 'sorted'\npath = '${{ slug }}'\n[gitsheet.fields.tags]\nsort = true",
    "pages": "root = 'pages'\npath = '${{ slug }}'\n[gitsheet.format]\ntype = 'markdown'\nbody = 'text'",
}
VALUES = st.one_of(
    st.text("ab\n\"'\\é\U0001f600 ", max_size=8),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.floats(-1e15, 1e15),
    st.integers(0, 2**32).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
)
# No name ends in .toml: one could then be a file and a directory, which gitsheets takes for no error.
SLUGS = st.sampled_from(["a", "b", "a-b", "a b", "ä", "a.b"])
RECORDS = st.fixed_dictionaries(
    {"slug": SLUGS, "a": st.sampled_from(["a", "b.b"]), "text": st.sampled_from(["", "# x\n\ny\n"])},
    optional={
        "x": VALUES,
        "tags": st.lists(st.sampled_from("abc"), max_size=3),
        "in": st.dictionaries(st.sampled_from(["k", "k k", ""]), VALUES | st.lists(VALUES, max_size=2)),
    },
)
KINDS = st.sampled_from(["upsert", "upsert", "put", "attach", "detach", "delete"])
Step = tuple[str, int, Record]
STEPS = st.lists(st.tuples(KINDS, st.integers(0, 7), RECORDS), max_size=4)


@dataclass
class Pair:
    """
    The same repository twice: one that the store writes, and one that gitsheets does.
    """

    ours: Bare
    theirs: Bare
    store: Store


@pytest.fixture
def twins(tmp_path: Path) -> Pair:
    ours = Bare(tmp_path / "ours.git")
    make_sample_repository(ours.path)
    with _theirs(ours) as transaction:
        for name, config in SHEETS.items():
            transaction.write_file(f".gitsheets/{name}.toml", f"[gitsheet]\n{config}\n")
    theirs = Bare.copy(ours.path, tmp_path / "theirs.git")
    state_directory(ours.path).mkdir()
    return Pair(ours, theirs, Store(Repository(ours.path, branch="main")))


@contextlib.contextmanager
def _theirs(bare: Bare) -> Iterator[Any]:
    with gitsheets.transact(
        str(bare.path), MESSAGE, NOW, parent=MAIN, branch=MAIN,
        author=AUTHOR, trailers=TRAILERS,
    ) as transaction:  # fmt: skip
        yield transaction


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction_module.time, "time", lambda: NOW)


@pytest.mark.parametrize("sheet", SHEETS)
def test_every_commit_is_the_one_that_gitsheets_would_make(twins, sheet):
    begin = twins.ours.head()

    @given(transactions=st.lists(STEPS, max_size=4))
    def check(transactions: list[list[Step]]) -> None:
        for bare in (twins.ours, twins.theirs):
            (bare.path / MAIN).write_text(f"{begin}\n")
        paths: set[str] = set()
        for steps in transactions:
            with twins.store.commit(MESSAGE, author=AUTHOR, trailers=TRAILERS) as transaction:
                done = [_ours(transaction, sheet, paths, *step) for step in steps]
            with _theirs(twins.theirs) as other:
                other.open_sheet(sheet, f".gitsheets/{sheet}.toml")
                for repeat in filter(None, done):
                    repeat(other, str(twins.theirs.path))
            if read_ref(twins.ours.path, MAIN) != read_ref(twins.theirs.path, MAIN):
                ours, theirs = ((b.git("log", "-2", "-p", "main")) for b in (twins.ours, twins.theirs))
                assert ours == theirs

    check()


def _ours(
    transaction: Transaction, sheet: str, paths: set[str], kind: str, number: int, record: Record
) -> Callable[[Any, str], Any] | None:
    """
    Take one step; returns what does the same by gitsheets, or None where nothing was done.
    """
    path = sorted(paths)[number % len(paths)] if paths else None
    name = ("n", "photo.jpg")[number % 2]
    with contextlib.suppress(RecordExistsError):
        if kind == "upsert":
            written = transaction.upsert(sheet, record)
            paths.add(written.path)
            return lambda other, _: other.upsert(sheet, written.record)
        if path is None:
            return None
        if kind == "put":
            moved = transaction.put(sheet, path, record)
            paths.remove(path)
            paths.add(moved.path)
            return lambda other, _: other.upsert(sheet, moved.record, previous_path=path)
        if kind == "attach":
            content = b"%d" % number
            transaction.attach(sheet, path, name, content)
            return lambda other, git_dir: other.set_attachment(
                sheet, path, name, gitsheets.write_blob(git_dir, content)
            )
        attachments = [n for n in ("n", "photo.jpg") if transaction.attachment(sheet, path, n)]
        if kind == "delete":
            transaction.delete(sheet, path)
            paths.remove(path)
            return lambda other, _: (
                [other.delete_attachment(sheet, path, n) for n in attachments],
                other.delete(sheet, path),
            )
        if name in attachments:
            transaction.detach(sheet, path, name)
            return lambda other, _: other.delete_attachment(sheet, path, name)
    return None
