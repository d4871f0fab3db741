"""
The rules of extensions are asked about what a merge changes here, whoever asks for the merge.
"""

from __future__ import annotations

import json

import psutil
import pytest
from click.testing import CliRunner

from ferry import Caller
from ferry.app import create_app
from ferry.app.cli.main import main
from ferry.worker import paging
from ferry.worker.bootstrap import build
from ferry.worker.errors import NonFastForward, ReconcileError
from ferry.worker.hosting import merges, process
from ferry.worker.ledger.operators import Operator
from ferry.worker.push import Request
from ferry.worker.repair.reconcile import Reconciler
from tests.pages import Browser

HEAD = """
import json, os, subprocess, sys, time
import ferry
town = ferry.Extension("town")
"""
TELL = (
    HEAD
    + """
@town.before_write
def told(write):
    with open("told", "a") as file:
        fields = [write.sheet, write.path, write.operation, write.attachment, write.caller.name]
        assert write.is_merge
        fields += [each and each.get("name") for each in (write.before, write.after)]
        file.write(json.dumps(fields) + "\\n")
"""
)
UNIQUE = "[gitsheet.unique]\nemail = true\n[gitsheet.references]\nfriend = 'people'\n"
JANE = Operator.of("jane.doe@desk")


def _person(slug, **fields):
    return {
        f"people/{slug}.toml": "".join(
            f'{name} = "{value}"\n'
            for name, value in sorted({"name": slug.title(), "slug": slug, **fields}.items())
        )
    }


@pytest.fixture
def sides(data, remote, env, tmp_path, monkeypatch):
    """
    Build the pipeline of a repository whose extension is given, level with its remote.
    """
    monkeypatch.chdir(tmp_path)
    # On a busy machine one push may take as long as a turn, and the next would be put off.
    monkeypatch.setattr("ferry.worker.push._TURN_S", 60.0)
    (tmp_path / "told").touch()
    declared = data.git("show", "main:.gitsheets/people.toml")
    data.edit({".gitsheets/people.toml": f"{declared}\n{UNIQUE}"})

    def start(text=TELL, **more):
        (tmp_path / "town.py").write_text(text)
        more = {"CFP_API_EXTENSIONS": "town", **more}
        for name, value in {**env, **more}.items():
            monkeypatch.setenv(name, value)  # for commands
        pipeline = build({**env, **more}, publisher=True)
        data.git("push", "-q", str(remote.path), "main")
        return pipeline

    return start


@pytest.fixture
def told(tmp_path):
    return lambda: [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]


def _reconcile(pipeline, strategy="merge", **options):
    return pipeline.reconciler.reconcile("origin", strategy, **{"by": JANE, **options})


def _push(pipeline, occasion="commit"):
    try:
        return pipeline.pusher.push(Request(remote="origin", chain="first", occasion=occasion))
    finally:
        paging.flush(5)


def test_each_record_and_attachment_that_a_merge_changes_here_is_one_write(sides, told, data, remote):
    data.edit({**_person("old"), **_person("kim"), "people/old/a.txt": "a", "people/kim/b.txt": "b"})
    pipeline = sides()
    theirs = {**_person("new"), **_person("kim", name="Kimmy"), "people/new/c.txt": "c", "README": "x"}
    gone = {"people/old.toml": None, "people/old/a.txt": None, "people/kim/b.txt": None}
    data.edit(_person("ours"))
    remote.edit({**theirs, **gone, "people/broken.toml": "["})

    outcome = _reconcile(pipeline)

    assert outcome.state == "merged"
    assert told() == [
        ["people", "kim", "put", None, "jane.doe", "Kim", "Kimmy"],
        ["people", "kim", "detach", "b.txt", "jane.doe", "Kimmy", "Kimmy"],
        ["people", "new", "create", None, "jane.doe", None, "New"],
        ["people", "new", "attach", "c.txt", "jane.doe", "New", "New"],
        ["people", "old", "delete", None, "jane.doe", "Old", None],
    ]


def test_a_rule_reads_the_merged_tree_with_what_rules_have_stored(sides, told, data, remote):
    text = """
@town.before_write("people")
def reads(write):
    write.set(note=" ".join(f"{each.path}:{each.get('note')}" for each in write.records("people", name="X")))
    assert write.read("people", "ours")["name"] == "X"
    assert write.exists("people", "b") and not write.exists("people", "c")
    assert write.declarations()["people"]["unique"] == {"email": True}
    for sheet, path in (("people", "c"), ("nothing", "c")):
        try:
            write.read(sheet, path)
        except ferry.Refused as exc:
            assert exc.status == 404, exc
        else:
            raise AssertionError
"""
    pipeline = sides(HEAD + text)
    data.edit(_person("ours", name="X"))
    remote.edit({**_person("a", name="X"), **_person("b", name="X")})

    outcome = _reconcile(pipeline)

    assert outcome.state == "merged", outcome.detail
    shown = [data.git("show", f"main:people/{path}.toml") for path in ("a", "b", "ours")]
    assert 'note = "a:None b:None ours:None"' in shown[0]
    assert 'note = "a:a:None b:None ours:None b:None ours:None"' in shown[1]
    assert "note" not in shown[2], "it is not changed by the merge"
    assert data.git("log", "-1", "--format=%P").split() == [outcome.before, outcome.remote_head]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("write.set(slug='other')", "ValueError: it would move the record to 'other'"),
        ("write.set(name=7)", "ValidationError: "),
    ],
)
def test_what_a_rule_stores_is_valid_and_stays_where_it_is(sides, data, remote, change, said):
    pipeline = sides(f"{HEAD}\n@town.before_write\ndef sets(write):\n    {change}\n")
    data.edit(_person("ours")), remote.edit(_person("new"))

    outcome = _reconcile(pipeline)

    assert (outcome.state, outcome.refusal.has_failed, data.head()) == ("refused", True, outcome.before)
    assert outcome.detail.startswith(f"the extension 'town' fails at people/new: {said}")


def test_a_date_that_a_rule_leaves_stays_as_it_is_written(sides, data, remote):
    pipeline = sides(f"{HEAD}\n@town.before_write\ndef sets(write):\n    write.set(seen=True)\n")
    data.edit(_person("ours"))
    remote.edit({"people/new.toml": 'born = 1990-05-01\nname = "New"\nslug = "new"\n'})
    assert _reconcile(pipeline).state == "merged"
    assert data.git("show", "main:people/new.toml") == (
        'born = 1990-05-01\nname = "New"\nseen = true\nslug = "new"'
    )


# --- A duplicate that only the merge makes ---

TWIN = "The record 'ours' of the sheet 'people' has the same email."


@pytest.mark.parametrize(
    ("ours", "theirs", "record", "said"),
    [
        (_person("ours", email="x@y.z"), _person("new", email="x@y.z"), "people/new", TWIN),
        (
            _person("ours", friend="old"),
            {"people/old.toml": None},
            "people/old",
            "The record 'ours' of the sheet 'people' refers to 'old'.",
        ),
        (
            {"people/old.toml": None},
            _person("new", friend="old"),
            "people/new",
            "The sheet 'people' has no record 'old'.",
        ),
    ],
)
def test_integrity_finds_what_only_the_merge_breaks(sides, data, remote, ours, theirs, record, said):
    data.edit(_person("old"))
    pipeline = sides("", CFP_API_EXTENSIONS="ferry.extensions.integrity")
    data.edit(ours), remote.edit(theirs)
    before = data.head()

    for dry_run in (True, False):
        outcome = _reconcile(pipeline, dry_run=dry_run)
        assert (outcome.state, outcome.is_joined, outcome.after, data.head()) == (
            "refused",
            False,
            before,
            before,
        )
        assert outcome.as_json()["refusal"] == {
            "extension": "integrity", "record": record, "message": said, "has_failed": False
        }  # fmt: skip


def test_the_command_names_the_record_and_the_remedy_which_then_works(sides, data, remote):
    sides("", CFP_API_EXTENSIONS="ferry.extensions.integrity")
    data.edit(_person("ours", email="x@y.z")), remote.edit(_person("new", email="x@y.z"))

    for options in (["--dry-run"], []):
        done = CliRunner().invoke(main, ["reconcile", *options])
        assert done.exit_code == 1, done.output
        assert f"the extension 'integrity' refuses people/new: {TWIN}" in done.output
        assert "Write the record through the API so that the rule holds, then reconcile" in done.output
        assert "people/new.toml: unchanged here, added on origin; result: added" in done.output

    data.edit(_person("ours", email="other@y.z"))
    done = CliRunner().invoke(main, ["reconcile"])
    assert (done.exit_code, "One merge commit joined both sides." in done.output) == (0, True), done.output


def test_auto_keeps_the_divergence_and_says_which_record_does_not_fit(sides, data, remote, told):
    """
    It is not tried again while both sides stand where they are; a commit that mends it ends the episode.
    """
    twin = """
@town.before_write
def only_one(write):
    open("told", "a").write("1\\n")
    if len(write.records("people", email="x@y.z")) > 1:
        raise ferry.Refused("A second one.", hint="Never shown.")
"""
    pipeline = sides(HEAD + twin, CFP_DATA_RECONCILE="auto")
    data.edit(_person("ours", email="x@y.z")), remote.edit(_person("new", email="x@y.z"))
    ours = data.head()

    with pytest.raises(NonFastForward, match="the extension 'town' refuses people/new: A second one"):
        _push(pipeline)
    for _ in range(3):
        _push(pipeline, "sweep")

    entry = pipeline.ledger.read("origin")
    assert (data.head(), len(told())) == (ours, 1)
    assert entry.last_failure.message.startswith("the extension 'town' refuses people/new: A second one.; ")
    assert entry.last_failure.hint.startswith("Write the record through the API so that the rule holds")

    data.edit(_person("ours", email="other@y.z"))
    _push(pipeline, "sweep")
    _push(pipeline)
    assert remote.head() == data.head()
    assert pipeline.ledger.read("origin").refused is None


def test_a_refusal_is_asked_about_again_after_a_while(sides, data, remote, told):
    pipeline = sides(HEAD + "@town.before_write\ndef no(write):\n    raise ferry.Refused('No.')\n")
    data.edit(_person("ours")), remote.edit(_person("new"))
    now = [1_790_000_000.0]
    parts = pipeline.settings, pipeline.repository, pipeline.ledger, pipeline.reconciler._write_lock
    reconciler = Reconciler(*parts, rules=pipeline.reconciler.rules, clock=lambda: now[0])
    assert reconciler.reconcile("origin", "merge", is_unasked=True).state == "refused"
    pipeline.reconciler.rules.serve(has_rules=False)  # as after a restart without the extension

    assert reconciler.reconcile("origin", "merge", is_unasked=True).state == "refused", "as it was"
    now[0] += 601
    assert reconciler.reconcile("origin", "merge", is_unasked=True).state == "merged"


# --- Rules that fail, and no rules ---

LEFT = (
    "child = subprocess.Popen(['sleep', '60'], stdout=-3, stderr=-3); "
    "print(child.pid, file=open('child', 'w'), flush=True)"
)


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("raise ValueError('what?')", "ValueError: what?"),
        ("os._exit(3)", "ended its process with status 3"),
        (f"{LEFT}; time.sleep(60)", "took longer than 3 s"),
    ],
)
def test_a_rule_that_fails_ends_the_merge_and_is_named(
    sides, data, remote, monkeypatch, tmp_path, does, said
):
    pipeline = sides(f"{HEAD}\n@town.before_write\ndef fails(write):\n    {does}\n")
    if "sleep" in does:
        monkeypatch.setattr(merges, "_RULES_S", 3.0)
    data.edit(_person("ours")), remote.edit(_person("new"))

    outcome = _reconcile(pipeline)

    assert (outcome.state, outcome.refusal.has_failed, data.head()) == ("refused", True, outcome.before)
    assert outcome.detail == f"the extension 'town' fails at people/new: {said}"
    assert "Correct the extension" in outcome.refusal.hint
    if "sleep" in does:
        assert not _is_running(int((tmp_path / "child").read_text()))


def _is_running(process):
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_rules_that_cannot_be_asked_are_no_permission(sides, data, remote, tmp_path):
    pipeline = sides()
    (tmp_path / "town.py").write_text("import nowhere")
    data.edit(_person("ours")), remote.edit(_person("new"))
    with pytest.raises(ReconcileError, match="the rules of extensions cannot be asked: town: cannot be"):
        _reconcile(pipeline)


def test_rules_are_asked_once_and_before_writers_wait(sides, told, data, remote, monkeypatch):
    pipeline = sides()
    data.edit(_person("ours")), remote.edit(_person("new"))
    held, report_of = [], process.report_of

    def noted(*arguments, **options):
        held.append(pipeline.reconciler._write_lock.is_held())
        return report_of(*arguments, **options)

    monkeypatch.setattr(merges, "report_of", noted)
    assert _reconcile(pipeline).state == "merged"
    assert (held, len(told())) == ([False], 1)


def test_rules_are_asked_again_where_a_writer_came_between(sides, told, data, remote, monkeypatch):
    pipeline = sides()
    data.edit(_person("ours")), remote.edit(_person("new"))
    held, report_of = [], process.report_of

    def slowly(*arguments, **options):
        held.append(pipeline.reconciler._write_lock.is_held())
        try:
            return report_of(*arguments, **options)
        finally:
            if len(held) == 1:
                data.edit(_person("later"))

    monkeypatch.setattr(merges, "report_of", slowly)
    assert _reconcile(pipeline).state == "merged"
    assert (held, len(told())) == ([False, True], 2)
    assert data.git("show", "main:people/later.toml")


@pytest.mark.parametrize(
    ("who", "name"),
    [
        ("ferry", "ferry"),
        ("admin@192.0.2.7", "admin"),
        ("Jane Doe@desk", "Jane-Doe"),
        ("@desk", "operator"),
        ("x" * 99, "x" * 63),
    ],
)
def test_a_rule_knows_an_operator_by_the_name_of_the_token_or_the_user(who, name):
    assert Caller(merges.caller_of(Operator.of(who))).name == name


@pytest.mark.parametrize("has_extension", [True, False])
def test_a_merge_without_rules_starts_no_process(sides, data, remote, monkeypatch, has_extension):
    pipeline = sides(f"{HEAD}\ntown.after_commit(print)", CFP_API_EXTENSIONS="town" * has_extension)
    if has_extension:
        pipeline.reconciler.rules.serve(has_rules=False)  # as each API process and worker knows
    data.edit(_person("ours")), remote.edit(_person("new"))
    monkeypatch.setattr(merges, "report_of", None)
    assert _reconcile(pipeline).state == "merged"


def test_a_fast_forward_and_a_rebase_ask_nobody(sides, told, data, remote):
    pipeline = sides()
    remote.edit(_person("new"))
    assert _reconcile(pipeline).state == "fast-forwarded"
    data.edit(_person("ours")), remote.edit(_person("newer"))
    assert _reconcile(pipeline, "rebase").state == "rebased"
    assert told() == []


# --- The status page ---


def test_the_status_page_names_extension_record_and_remedy(sides, data, remote, env):
    more = {"CFP_API_EXTENSIONS": "ferry.extensions.integrity"}
    sides("", **more)
    browser = Browser(create_app({**env, **more}, open_access=True).test_client())
    data.edit(_person("ours", email="x@y.z")), remote.edit(_person("new", email="x@y.z"))

    shown = browser.press(browser.open(), "Reconcile: dry run")
    assert "A rule of an extension refuses the merge. Nothing would be changed." in shown.text
    assert f"the extension 'integrity' refuses people/new: {TWIN}" in shown.text
    assert "Write the record through the API so that the rule holds" in shown.text
    assert "Reconcile now" not in shown.text
