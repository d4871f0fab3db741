"""
Declarations that hold code, or cost without bound: their own sheet's problem, and nobody else's.
"""

from __future__ import annotations

import threading

import gitsheets
import pytest

from ferry.app import create_app
from ferry.app.sheets import evaluation
from ferry.worker.process import apart
from ferry.worker.process.apart import Limit
from ferry.worker.repair import merger, reconcile

PEOPLE = "/api/sheets/people/records"
PATH = "path = '''${{ %s }}'''\n"
FIELDS = "path = '${{ slug }}'\n"
_TWICE = "allOf = [{{'$ref' = '#/definitions/a{0}'}}, {{'$ref' = '#/definitions/a{0}'}}]"
# Each refers to the next one twice, so the first one to 2**26.
_LAUGHS = "".join(f"a{number} = {{ {_TWICE.format(number + 1)} }}\n" for number in range(26)) + "a26 = {}\n"

# At the first record that is written.
RUNAWAYS = {
    "loop": PATH % "[1].map(function (x) { for (;;) ; } )",
    "memory": PATH % "'x'.repeat(2**29)",
    "heap": PATH % "(function () { const a = []; for (;;) a.push(slug + a.length); } )()",
    "recursion": PATH % "(function f(n) { return f(n + 1) + slug; } )(0)",
    "length": PATH % "'x'.repeat(2**20)",
    "pattern": PATH % "/(a+)+$/.test('a'.repeat(60) + '!')",
    "sort": FIELDS + "[gitsheet.fields.tags]\nsort = 'for (;;) ;'\n",
}
# When gitsheets opens the sheet.
AT_ONCE = {
    "loop": PATH % "1) } }, (function () { for (;;) ; } )(), () => { with ({ } ) { (1",
    "schema": FIELDS
    + "[gitsheet.schema]\n'$ref' = '#/definitions/a0'\n[gitsheet.schema.definitions]\n"
    + _LAUGHS,
    "depth": PATH % ("(" * 100_000 + "1" + ")" * 100_000),
    "sort": FIELDS + "[gitsheet.fields.tags]\nsort = '} )(function () { for (;;) ; } (), function () {'\n",
}


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(evaluation, "LIMIT", Limit(cpu_s=0.3))


@pytest.fixture
def declare(data):
    def declare(name, text):
        _commit(data, f".gitsheets/{name}.toml", f"[gitsheet]\nroot = '{name}'\n{text}")

    return declare


@pytest.fixture
def calls(monkeypatch):
    """
    What ran apart, in order.
    """
    made, call = [], apart.pool.call

    def counted(function, *arguments, **options):
        made.append(function.__name__)
        return call(function, *arguments, **options)

    monkeypatch.setattr(apart.pool, "call", counted)
    return made


def _commit(bare, path, text):
    transaction = gitsheets.CoreTransaction.begin(
        str(bare.path), "by hand", 1, 0, bare.head(), "refs/heads/main", ("A", "a@b"), ("A", "a@b")
    )
    transaction.write_file(path, text)
    transaction.finalize()


def _is_misconfigured(answer):
    assert (answer.status_code, answer.json["code"]) == (500, "sheet-misconfigured"), answer.text
    return answer.json["detail"]


@pytest.mark.parametrize("name", RUNAWAYS)
def test_what_never_ends_is_refused_and_then_left_alone(client, declare, calls, name):
    declare("wild", RUNAWAYS[name])
    api, record = client(), {"slug": "x", "tags": ["b", "a"]}
    assert "'wild'" in _is_misconfigured(api.post("/api/sheets/wild/records", json=record))
    tried = len(calls)
    _is_misconfigured(api.put("/api/sheets/wild/records/x", json=record))
    operations = [{"op": "upsert", "sheet": "wild", "record": {**record, "n": n}} for n in range(50)]
    _is_misconfigured(api.post("/api/transactions", json={"operations": operations}))
    assert len(calls) == tried
    assert api.get("/api/sheets/wild/records").status_code == 200
    assert api.post(PEOPLE, json={"slug": "ann", "name": "Ann"}).status_code == 201


@pytest.mark.parametrize("name", AT_ONCE)
def test_what_never_opens_is_tried_once_however_often_it_is_read(client, declare, calls, name):
    api = client()
    declare("wild", AT_ONCE[name])
    for _ in range(5):
        for address in ("", "/records", "/records/x"):
            _is_misconfigured(api.get(f"/api/sheets/wild{address}"))
    assert calls == ["_fault"]
    assert api.get("/openapi.json").status_code == 200
    assert api.get(f"{PEOPLE}?limit=1").status_code == 200


def test_many_that_never_open_take_bounded_time(client, declare, calls):
    for number in range(12):
        declare(f"wild{number}", AT_ONCE["depth"])
    declare("good", PATH % "slug.toUpperCase()")
    api = client()
    for number in range(12):
        _is_misconfigured(api.get(f"/api/sheets/wild{number}"))
    assert calls.count("_fault") <= 6  # five, and "good" before them
    assert api.get(f"{PEOPLE}?limit=1").status_code == 200


def test_others_go_on_while_one_is_evaluated(client, declare, monkeypatch):
    """
    Neither the write lock is held meanwhile, nor the interpreter's.
    """
    declare("clever", PATH % "slug.toUpperCase()")
    api, begun, goes_on = client(), threading.Event(), threading.Event()
    call = apart.pool.call

    def held(function, *arguments, **options):
        if function.__name__ == "_render_apart":
            begun.set()
            assert goes_on.wait(60)
        return call(function, *arguments, **options)

    monkeypatch.setattr(apart.pool, "call", held)
    answers = []
    application = api.application

    def write():
        answers.append(application.test_client().post("/api/sheets/clever/records", json={"slug": "x"}))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert begun.wait(60)
        assert api.get("/api/health/ready").status_code == 200
        assert api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"}).status_code == 201
        assert not answers
    finally:
        goes_on.set()
        writer.join(60)
    assert (answers[0].status_code, answers[0].json["path"]) == (201, "X")


def test_a_record_that_changes_while_it_is_evaluated_is_evaluated_again(client, declare, monkeypatch):
    declare("clever", PATH % "slug.toUpperCase()")
    api, call = client(), apart.pool.call
    assert api.post("/api/sheets/clever/records", json={"slug": "x", "n": 1}).status_code == 201
    application, meanwhile = api.application, []

    def others_come_first(function, *arguments, **options):
        if function.__name__ == "_render_apart" and not meanwhile:
            meanwhile.append(True)
            other = application.test_client()
            assert other.patch("/api/sheets/clever/records/X", json={"m": 2}).status_code == 200
        return call(function, *arguments, **options)

    monkeypatch.setattr(apart.pool, "call", others_come_first)
    answer = api.patch("/api/sheets/clever/records/X", json={"n": 3})
    assert (answer.status_code, answer.json["record"]) == (200, {"slug": "x", "n": 3, "m": 2})
    assert meanwhile


def test_a_transaction_has_all_its_records_evaluated_in_one_go(client, declare, calls):
    declare("clever", PATH % "slug.toUpperCase()")
    operations = [{"op": "create", "sheet": "clever", "record": {"slug": f"x{n}"}} for n in range(20)]
    answer = client().post("/api/transactions", json={"operations": operations})
    assert [each["path"] for each in answer.json["results"]] == [f"X{n}" for n in range(20)]
    assert calls.count("_render_apart") == 20


def test_expressions_can_be_turned_off(env, declare, calls):
    declare("clever", PATH % "slug.toUpperCase()")
    declare("wild", AT_ONCE["loop"])
    declare("sorted", FIELDS + "[gitsheet.fields.tags]\nsort = 'return 0'\n")
    declare(
        "named",
        "path = '${{ place.city }}/${{ at: YYYY }}/${{ slug }}'\n[gitsheet.fields.tags]\nsort = ['z']\n",
    )
    api = create_app({**env, "CFP_DATA_EXPRESSIONS": "off"}, open_access=True).test_client()
    for name in ("clever", "wild", "sorted"):
        sheet = f"/api/sheets/{name}"
        for answer in (
            api.get(sheet),
            api.get(f"{sheet}/records"),
            api.post(f"{sheet}/records", json={"slug": "x"}),
            api.delete(f"{sheet}/records/x"),
        ):
            assert "CFP_DATA_EXPRESSIONS" in _is_misconfigured(answer)
    record = {"slug": "x", "at": "2026-01-01", "place": {"city": "Bern"}, "tags": [{"z": 2}, {"z": 1}]}
    stored = api.post("/api/sheets/named/records", json=record)
    assert (stored.status_code, stored.json["path"]) == (201, "Bern/2026/x"), stored.text
    assert stored.json["record"]["tags"] == [{"z": 1}, {"z": 2}]


def test_a_body_that_breaks_the_renderer_is_its_records_fault(client, declare):
    """
    gitsheets' renderer of markdown goes as deep as the text does: twenty thousand quotes end its process.
    """
    declare("pages", FIELDS + "[gitsheet.format]\ntype = 'markdown'\nbody = 'text'\n")
    api = client()
    for _ in range(2):
        answer = api.post("/api/sheets/pages/records", json={"slug": "x", "text": ">" * 60_000})
        assert (answer.status_code, answer.json["code"]) == (422, "validation-failed"), answer.text
    assert api.post("/api/sheets/pages/records", json={"slug": "x", "text": "> quoted"}).status_code == 201


def test_a_declaration_is_tried_again_after_a_while():
    now = [0.0]
    caution = evaluation.Caution(lambda: now[0])

    def overrun():
        tries.append(now[0])
        raise apart.OverrunError("long")

    tries = []
    for moment in (0, 1, 29, 31, 60, 90, 92):
        now[0] = float(moment)
        with pytest.raises(apart.OverrunError):
            caution.run("wild", overrun)
    assert tries == [0, 31, 92]
    now[0] = 1000.0
    assert caution.run("wild", lambda: 1) == 1


def test_no_child_is_started_for_sheets_that_only_name_fields(client, calls):
    api = client()
    assert api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"}).status_code == 201
    assert api.get("/openapi.json").status_code == 200
    assert not calls


def test_a_merge_that_never_ends_is_a_conflict_that_no_writer_waits_for(
    client, data, remote, declare, monkeypatch
):
    declare("wild", AT_ONCE["loop"])
    api = client()
    data.git("push", "-q", str(remote.path), "main")
    _commit(remote, "people/joe.toml", 'name = "Joe"\nslug = "joe"\n')
    assert api.put(f"{PEOPLE}/joe", json={"slug": "joe", "name": "Jo"}).status_code == 201
    monkeypatch.setattr(merger, "_MERGE", Limit(cpu_s=0.3))
    monkeypatch.setattr(reconcile.Reconciler, "_alone", None)  # the write lock is not asked for
    reconciler = api.application.extensions["ferry"].pipeline.reconciler
    for strategy in ("merge", "rebase"):
        outcome = reconciler.reconcile("origin", strategy)
        assert (outcome.state, outcome.before) == ("conflict", data.head())
        assert "cannot be merged" in outcome.detail
