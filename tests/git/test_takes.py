"""
What an operator takes of a conflict is in the merge, and so is all that does not conflict.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import pytest

from ferry.worker.errors import ReconcileError, TakeError
from ferry.worker.files.places import write_lock
from ferry.worker.repair.merger import parse_takes
from ferry.worker.repair.reconcile import Outcome, Reconciler
from tests.line import Deployment
from tests.parts import Bare

KIM, LOU, PHOTO, NOTE = "people/kim.toml", "people/lou.toml", "people/kim/photo.png", "NOTE"
EMAIL, CITY = f"{KIM}:email", f"{KIM}:address.city"
BASE = {
    KIM: 'born = 1979-05-27\nemail = "base"\nname = "Kim"\nslug = "kim"\n'
    '[address]\ncity = "Base"\nzip = "0"\n',
    LOU: 'name = "Lou"\nslug = "lou"\n',
    PHOTO: "\0base",
    NOTE: "base\n",
}
OURS = {
    KIM: 'born = 1979-05-27\nemail = "o"\nname = "Kim"\nours = 1\nslug = "kim"\n'
    '[address]\ncity = "O"\nzip = "0"\n',
    LOU: None,
    PHOTO: "\0ours",
    NOTE: "ours\n",
}
THEIRS = {
    KIM: 'born = 1979-05-27\nemail = "t"\nname = "Kimberly"\nslug = "kim"\nsince = 07:32:00\n'
    '[address]\ncity = "T"\nzip = "1"\n',
    LOU: 'name = "Louise"\nslug = "lou"\n',
    PHOTO: "\0theirs",
    NOTE: "base\n",
}
UNDISPUTED = {"name": "Kimberly", "ours": 1, "slug": "kim", "born": date(1979, 5, 27)}


@dataclass(frozen=True)
class Parted:
    """
    Two sides that changed the same fields, and others.
    """

    data: Bare
    remote: Bare
    reconciler: Reconciler

    def take(self, *takes: str, dry_run: bool = False, strategy="merge") -> Outcome:
        chosen = dict(take.rsplit("=", 1) for take in takes)
        return self.reconciler.reconcile("origin", strategy, takes=chosen, dry_run=dry_run, compares=True)

    def file(self, path: str) -> str | None:
        listed = self.data.git("ls-tree", "main", path)
        return self.data.git("show", f"main:{path}") if listed else None


@pytest.fixture
def parted(deploy: Callable[..., Deployment], data: Bare, remote: Bare) -> Parted:
    deployment = deploy()
    data.edit(BASE)
    data.git("push", "--quiet", str(remote.path), "main:main")
    data.edit(OURS)
    remote.edit(THEIRS)
    lock = write_lock(data.path)
    return Parted(
        data, remote, Reconciler(deployment.settings, deployment.repository, deployment.ledger, lock)
    )


@pytest.mark.parametrize(
    ("takes", "email", "city"),
    [
        ((f"{KIM}=ours",), "o", "O"),
        ((f"{KIM}=theirs",), "t", "T"),
        ((f"{EMAIL}=theirs", f"{CITY}=ours"), "t", "O"),
        ((f"{KIM}=theirs", f"{EMAIL}=ours"), "o", "T"),
    ],
)
@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_what_is_taken_is_in_the_merge_with_all_that_both_changed_besides(
    parted: Parted, takes: tuple[str, ...], email: str, city: str, side: str
):
    ours, theirs = parted.data.head(), parted.remote.head()

    outcome = parted.take(*takes, f"{LOU}={side}", f"{PHOTO}={side}")

    assert (outcome.state, outcome.after, outcome.conflicts) == ("merged", parted.data.head(), ())
    assert parted.data.git("log", "-1", "--format=%P") == f"{ours} {theirs}"
    kim = tomllib.loads(parted.file(KIM) or "")
    assert kim["email"] == email
    assert kim["address"] == {"city": city, "zip": "1"}
    assert kim.items() >= UNDISPUTED.items(), "what does not conflict is of both"
    assert str(kim["since"]) == "07:32:00"
    assert parted.file(PHOTO) == f"\0{side}"
    assert parted.file(LOU) == (None if side == "ours" else THEIRS[LOU].strip())
    assert parted.file(NOTE) == "ours"
    assert f"Take {side} of {LOU}" in parted.data.git("log", "-1", "--format=%b"), (
        "the commit says what was taken"
    )
    assert parted.data.git("fsck", "--strict", "--no-dangling") == ""


def test_what_nobody_has_decided_stays_a_conflict_and_nothing_is_changed(parted: Parted):
    ours = parted.data.head()

    outcome = parted.take(f"{EMAIL}=theirs", f"{PHOTO}=ours")

    assert outcome.state == "conflict"
    assert [str(conflict) for conflict in outcome.conflicts] == [CITY, LOU]
    assert parted.data.head() == ours
    fields = _fields(outcome)
    assert fields[KIM, "email"] == ('"base"', '"o"', '"t"', '"t"', False)
    assert fields[KIM, "address.city"] == ('"Base"', '"O"', '"T"', None, True)


@pytest.mark.parametrize("take", [f"{KIM}:name", NOTE, "people/nobody.toml", "people/kim"])
def test_a_side_of_what_does_not_conflict_cannot_be_taken(parted: Parted, take: str):
    ours = parted.data.head()
    with pytest.raises(ReconcileError, match="nothing conflicts at"):
        parted.take(f"{take}=ours")
    assert parted.data.head() == ours


@pytest.mark.parametrize(
    ("behind", "strategy"),
    [(["data"], "merge"), (["remote"], "merge"), (["data", "remote"], "merge"), ([], "preserve")],
)
def test_where_no_merge_is_made_no_side_can_be_taken(parted: Parted, behind: list[str], strategy: str):
    for side in behind:
        getattr(parted, side).git("update-ref", "refs/heads/main", "main~1")
    before = parted.data.head()
    with pytest.raises(TakeError, match="nothing was changed"):
        parted.take(f"{EMAIL}=ours", strategy=strategy)
    assert parted.data.head() == before


def test_both_sides_of_one_place_cannot_be_taken():
    assert parse_takes(["a:b=c=ours", "a=theirs", "a=theirs"]) == {"a:b=c": "ours", "a": "theirs"}
    with pytest.raises(ValueError, match="both sides of 'x'"):
        parse_takes(["x=ours", "x=theirs"])


def _post(title: str, body: str, **fields: str) -> str:
    lines = [
        f'{name} = "{value}"\n' for name, value in sorted({**fields, "slug": "p", "title": title}.items())
    ]
    return f"+++\n{''.join(lines)}+++\n\n{body}\n"


def test_a_markdown_record_is_taken_as_a_whole_and_merged_field_by_field(deploy, data: Bare, remote: Bare):
    deployment = deploy()
    head = "[gitsheet]\nroot = 'posts'\npath = '${{ slug }}'\n"
    sheet = f"{head}[gitsheet.format]\ntype = 'markdown'\nbody = 'body'\n"
    data.edit({".gitsheets/posts.toml": sheet, "posts/p.md": _post("Base", "Base")})
    data.git("push", "--quiet", str(remote.path), "main:main")
    data.edit({"posts/p.md": _post("Ours", "Ours", ours="1")})
    remote.edit({"posts/p.md": _post("Theirs", "Theirs", theirs="1")})
    parts = deployment.settings, deployment.repository, deployment.ledger
    parted = Parted(data, remote, Reconciler(*parts, write_lock(data.path)))

    planned = parted.take(dry_run=True)
    assert sorted(map(str, planned.conflicts)) == ["posts/p.md:body", "posts/p.md:title"]
    assert [(each.path, [field.name for field in each.fields]) for each in planned.changes] == [
        ("posts/p.md", [None])
    ]
    assert _fields(planned)["posts/p.md", None][3:] == (None, True)
    half = parted.take("posts/p.md:title=ours", dry_run=True)
    assert (*map(str, half.conflicts),) == ("posts/p.md:body",)
    assert _fields(half)["posts/p.md", None][3:] == (None, True)
    with pytest.raises(ReconcileError, match="take one side of the whole file"):
        parted.take("posts/p.md:title=ours", "posts/p.md:body=theirs")
    assert parted.take("posts/p.md=theirs").state == "merged"
    assert parted.file("posts/p.md") == _post("Theirs", "Theirs", ours="1", theirs="1").strip()


def test_a_dry_run_shows_each_field_with_what_both_sides_have_and_what_comes_of_it(parted: Parted):
    outcome = parted.take(dry_run=True)

    assert [change.path for change in outcome.changes] == [KIM, PHOTO, LOU, NOTE]
    assert {(each.path, each.ours, each.theirs, each.result) for each in outcome.changes} == {
        (KIM, "changed", "changed", "conflict"),
        (LOU, "removed", "changed", "conflict"),
        (PHOTO, "changed", "changed", "conflict"),
        (NOTE, "changed", "unchanged", "changed"),
    }
    photo = [f"{len(side) + 1} bytes" for side in ("base", "ours", "theirs")]
    assert _fields(outcome) == {
        (KIM, "address.city"): ('"Base"', '"O"', '"T"', None, True),
        (KIM, "address.zip"): ('"0"', '"0"', '"1"', '"1"', False),
        (KIM, "email"): ('"base"', '"o"', '"t"', None, True),
        (KIM, "name"): ('"Kim"', '"Kim"', '"Kimberly"', '"Kimberly"', False),
        (KIM, "ours"): (None, "1", None, "1", False),
        (KIM, "since"): (None, None, "07:32:00", "07:32:00", False),
        (LOU, "name"): ('"Lou"', None, '"Louise"', None, True),
        (LOU, "slug"): ('"lou"', None, '"lou"', None, True),
        (PHOTO, None): (*photo, None, True),
        (NOTE, None): ("base\n", "ours\n", "base\n", "ours\n", False),
    }


@pytest.mark.parametrize("dry_run", [True, False])
def test_preserve_leaves_no_field_in_conflict(parted: Parted, dry_run: bool):
    outcome = parted.take(strategy="preserve", dry_run=dry_run)
    assert outcome.conflicts
    assert {change.result for change in outcome.changes} == {"changed", "unchanged"}
    assert _fields(outcome)[KIM, "email"] == ('"base"', '"o"', '"t"', '"t"', False)


def test_a_dry_run_of_a_fast_forward_shows_what_would_be_taken_over(parted: Parted):
    parted.data.git("update-ref", "refs/heads/main", "main~1")
    outcome = parted.take(dry_run=True)
    assert outcome.state == "fast-forwarded"
    assert _fields(outcome)[KIM, "email"] == ('"base"', '"base"', '"t"', '"t"', False)


def _fields(outcome: Outcome) -> dict[tuple[str, str | None], tuple[str | bool | None, ...]]:
    found = {}
    for change in outcome.changes:
        for field in change.fields:
            values = (field.base, field.ours, field.theirs, field.result)
            shown = (value and value.partition(", ")[0] for value in values)  # without the name of a blob
            found[change.path, field.name] = (*shown, field.conflict)
    return found


def test_a_key_with_a_line_end_writes_no_line_into_the_message(parted: Parted):
    path = "people/eve.toml"
    for side, bare in enumerate((parted.data, parted.remote)):
        bare.edit({path: f'"c\\nReviewed-by: Kim" = {side}\nname = "Eve"\nslug = "eve"\n'})

    outcome = parted.take(*(f"{each}=ours" for each in (KIM, LOU, PHOTO)), f"{path}:c\nReviewed-by: Kim=ours")

    assert outcome.state == "merged"
    told = parted.data.git("log", "-1", "--format=%b").splitlines()
    assert f"Take ours of {path}:c Reviewed-by: Kim" in told
