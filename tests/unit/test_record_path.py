"""
Templates that only name fields make the path that gitsheets makes, byte for byte.
"""

from __future__ import annotations

from datetime import UTC

import gitsheets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferry.app.sheets.javascript import IDENTIFIERS, MEMBERS
from ferry.app.sheets.record_path import names_of, runs_code
from ferry.worker.records.template import Template

NAMES = [
    "${{ a }}",
    "${{a}}",
    "${{\u2003a\n}}",
    "/${{ a }}/",
    "x",
    "x-${{ a }}.y",
    "${{ a }}${{ b }}",
    "${{ a }}--${{ b }}/${{ a }}",
    "${{ a/** }}",
    "x/${{ a/** }}",
    "${{ a-b }}",
    "${{ 1 }}",
    "${{ true }}",
    "${{ this }}",
    "${{ class }}",
    "$${{ a }}}}",
    "${a}",
    "a}}b",
    "a:b",
    "${{ d: YYYY }}/${{ a }}",
    "${{ d: YYYY/MM }}/${{ a }}",
    "${{d:YYYY/MM/DD}}",
    "x/${{ d : YYYY/WW }}/y",
    "${{ t.d: YYYY/MM/DD }}/${{ a }}",
    "${{ t.a }}",
    "${{ t.t.a }}",
    "${{ t.a }}/${{ a }}-${{ t.b }}",
    "${{ naïve }}",
    "${{ $a }}",
    "${{ t.class }}",
    "${{ t.name }}",
    "${{ a.b.c }}",
]
DATED = ["${{ a }}", "${{ t.a }}", "${{ a: YYYY/MM/DD }}", "${{ t.a: YYYY/WW }}"]
EXPRESSIONS = [
    "${{ a.toUpperCase() }}",
    "${{ a.length }}",
    "${{ a + b }}",
    "${{ a || b }}",
    "${{ 'x' }}",
    "${{ `${a}` }}",
    "${{ a[0] }}",
    "${{ a?.b }}",
    "${{ record.a }}",
    "${{ this.a }}",
    "${{ Math.PI }}",
    "${{ toString.name }}",
    "${{ t.constructor }}",
    "${{ t.__proto__ }}",
    "${{ 1) } }, (() => { for (;;) {} })(), () => { with ({}) { (1 }}",
    "${{ a /* x */ }}",
    "${{ a /**}}",
    "x/${{ a ? b : c }}",
]
WRONG = [
    "",
    "/",
    "a//b",
    "${{ a",
    "${{ a/** }}/b",
    "x${{ a/** }}",
    "${{ d: Y }}",
    "x${{ d: YYYY }}",
    "${{ d: YYYY }}x",
]

FLOATS = [
    0.1, 1.0, -1.5, 0.0, -0.0, 1e16, 1e17, 123456789.125, 1e20, 9.3e18, -9.9e18, 1e21, 1e22, 1.5e300, 1e-6,
    1e-7, 1.234e-9, 5e-324, 1.7976931348623157e308, float("nan"), float("inf"), float("-inf"),
    2.0**53, 2.0**63,
]  # fmt: skip
DATES = [
    "2026-03-09", "2026-03-09T23:30:00-02:00", "2026-03-09T23:30:00Z", "2026-03-09T00:00:00.5+05:30",
    "2026-03-09T12:00:00", "2027-01-01", "2024-12-30", "0001-01-01T00:00:00+01:00", "9999-12-31", "2026-3-9",
    "2026-02-30", "2026-03-09t10:00:00z", "2026-03-09 10:00:00Z", "2026-03-09T10:00:60Z", "+12026-03-09",
    "yesterday", "20260309", " 2026-03-09", "2026-03-09T10:00", "",
]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        [
            "x",
            "a b",
            "é",
            "e\u0301",
            "日本",
            "\U0001f600",
            "a/b",
            "/",
            "",
            ".",
            "..",
            "a:b",
            "a\\b",
            "\x7f",
            "\x00",
        ]
    ),
    st.text(max_size=4),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([2**53 + 1, 10**18 + 1, True, False, 0]),
    st.floats(),
    st.sampled_from(FLOATS),
    st.sampled_from(DATES),
    st.datetimes().map(lambda at: at.replace(microsecond=0, tzinfo=UTC)),
    st.lists(st.text(max_size=2), max_size=2),
)
FIELDS = ["a", "b", "d", "a-b", "1", "true", "this", "class", "naïve", "$a", "name", "c"]
TABLES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6)
RECORDS = st.builds(
    lambda top, table, inner: {**top, **({"t": {**table, "t": inner}} if table else {})},
    TABLES,
    TABLES,
    TABLES,
)


def _ours(template, record):
    try:
        return names_of(template).path(record)
    except gitsheets.PathTemplateError as exc:
        return exc.code


@pytest.fixture(scope="module")
def theirs():
    compiled = {template: gitsheets.CompiledDefinition(template) for template in [*NAMES, *DATED]}

    def path(template, record):
        try:
            return compiled[template].render_path(record)
        except gitsheets.PathTemplateError as exc:
            return exc.code

    yield path
    compiled.clear()  # in this thread: gitsheets cannot free them in another, as the collector may be in


@given(record=RECORDS)
def test_a_template_of_names_makes_the_path_that_gitsheets_makes(theirs, record):
    assert {each: _ours(each, record) for each in NAMES} == {each: theirs(each, record) for each in NAMES}


@pytest.mark.parametrize("template", DATED)
def test_numbers_and_dates_are_written_as_gitsheets_writes_them(theirs, template):
    records = [{"a": value, "t": {"a": value}} for value in (*FLOATS, *DATES)]
    assert [_ours(template, each) for each in records] == [theirs(template, each) for each in records]


@pytest.mark.parametrize(
    "template", ["${{ a }}", "x/${{ a }}-${{ t.b }}", "${{ d: YYYY }}/${{ a }}", "${{ t.d: YYYY/MM }}"]
)
def test_what_is_missing_is_said_in_gitsheets_words(template):
    with pytest.raises(gitsheets.PathTemplateError) as theirs:
        gitsheets.render_paths_batch(template, [{}])
    with pytest.raises(gitsheets.PathTemplateError) as ours:
        names_of(template).path({})
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("template", NAMES)
def test_names_are_no_code(template):
    assert names_of(template) is not None
    assert not runs_code(template)


@pytest.mark.parametrize("template", EXPRESSIONS)
def test_an_expression_is_code(template):
    assert names_of(template) is None
    assert runs_code(template)
    assert runs_code(f"x/{template}/${{{{ unfinished")  # compiled before gitsheets comes to the end


@pytest.mark.parametrize("template", WRONG)
def test_what_gitsheets_refuses_is_neither_names_nor_code(template):
    with pytest.raises((gitsheets.PathTemplateError, gitsheets.ConfigError)):
        gitsheets.render_paths_batch(template, [{"a": "x", "d": "2026-01-01"}])
    assert names_of(template) is None
    assert not runs_code(template)


def test_a_prototype_in_the_data_gives_no_field():
    for record in ({"t": {"__proto__": {"a": "x"}}}, {"__proto__": {"t": {"a": "x"}}}):
        assert _ours("${{ t.a }}", record) == "path_render_failed"


def test_every_name_that_means_something_to_the_engine_is_known():
    script = """[globalThis, Object.prototype].flatMap(o => Object.getOwnPropertyNames(o)).join(' ')"""
    assert _names_by(script) <= IDENTIFIERS
    script = """[Object, String, Number, Boolean, Date, Array].flatMap(
        o => Object.getOwnPropertyNames(o.prototype)).join(' ')"""
    assert _names_by(script) <= MEMBERS


def _names_by(script):
    return set(gitsheets.render_paths_batch("${{ " + script + " }}", [{}])[0].split())


def test_slashes_belong_to_a_name_with_a_dash_too():
    assert Template.of("${{ content-path/** }}").makes(["a", "b"])
