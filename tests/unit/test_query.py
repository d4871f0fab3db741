"""
Which records a list's query finds, and which queries are refused.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from urllib.parse import parse_qsl

import pytest
from werkzeug.datastructures import MultiDict

from ferry.app.finding.fields import Fields
from ferry.app.finding.query import query_of
from ferry.app.finding.search import fold
from ferry.app.problems import Problem
from ferry.app.store.table import Table

SCHEMA = {
    "properties": {
        "name": {"type": "string"},
        "zip": {"type": "string"},
        "age": {"type": ["integer", "null"]},
        "born": {"type": "string", "format": "date"},
        "open": {"type": "boolean"},
        "any": {"type": ["integer", "array"]},
        "skills": {"type": "array", "items": {"type": "string"}},
        "scores": {"type": "array", "items": {"type": "number"}},
        "address": {"type": "object", "properties": {"city": {"type": "string"}}},
        "or": {"type": "string"},
    }
}
PEOPLE = {
    "ann": {"name": "Ann", "zip": "0100", "age": 30, "born": date(1990, 5, 1), "skills": ["git", "sql"]},
    "bob": {"name": "Bob", "zip": "9", "age": 17, "born": "2003-01-31", "address": {"city": "Bonn"}},
    "cyd": {"name": "Cyd", "zip": "53111", "scores": [1, 9.5], "address": {"city": "Berlin"}, "open": True},
    "dan": {"name": "anna", "age": 65, "skills": ["sqlite"], "x": datetime(2026, 1, 31, 10, tzinfo=UTC)},
    "eve": {"or": "else", "x": "loose", "name": "Łódź"},
}


def _query(text):
    return query_of(
        MultiDict(parse_qsl(text, keep_blank_values=True)).lists(), Fields("it", [SCHEMA], frozenset())
    )


def _found(text):
    return [path for path, _ in _query(text).select(Table(PEOPLE.items()))]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("name[contains]=nn", "ann dan"),
        ("name[contains]=Ann", "ann"),  # the case counts, as in eq
        ("name[contains]=ob&name[contains]=yd", "bob cyd"),
        ("skills[contains]=ql", "ann dan"),
        ("age[contains]=7", ""),  # a number has no text
        (".x[startswith]=2026-01", "dan"),  # a date's text is what JSON shows
        ("name[startswith]=A", "ann"),
        ("name[startswith]=A&name[startswith]=B", "ann bob"),
        ("address.city[startswith]=B", "bob cyd"),
        ("age[exists]=true", "ann bob dan"),
        ("age[exists]=false", "cyd eve"),
        ("address.city[exists]=false", "ann dan eve"),
        ("name[gte]=B&name[lt]=D", "bob cyd"),
        ("name[gt]=anna", "eve"),  # by code points
        ("zip[gt]=50", "bob cyd"),  # the schema says that it is text
        ("age[gt]=18", "ann dan"),
        ("scores[gt]=9", "cyd"),
        ("born[lt]=2000-01-01", "ann"),
        ("born[gte]=2000-01-01", "bob"),
        (".x[gt]=2026-01-01", "dan"),
        (".x[gt]=l", "eve"),
        ("skills[gte]=sqlite", "dan"),
        ("open=true", "cyd"),
        ("open[ne]=true", "ann bob dan eve"),
        ("age[in]=17,65", "bob dan"),
        ("age=nan", ""),
        ("any=text", ""),  # the schema leaves open what its lists hold
    ],
)  # fmt: skip
def test_an_operator_asks_one_thing_of_one_field(query, found):
    assert _found(query) == found.split()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("or[0][age][lt]=18&or[1][name][startswith]=A", "ann bob"),
        ("or[7][name]=Cyd&or[3][name]=Ann", "ann cyd"),
        ("or[0][age][gt]=18&or[0][age][lt]=60&or[1][name]=Cyd", "ann cyd"),  # a group is one alternative
        ("or[0][name]=Cyd&or[0][name]=Ann", "ann cyd"),
        ("or[0][age][lt]=18&or[1][age][gt]=60&name[ne]=Bob", "dan"),
        ("not[name]=Ann", "bob cyd dan eve"),
        ("not[age][gt]=18&not[age][lt]=60", "bob cyd dan eve"),  # not both
        ("not[or][0][age][gt]=60&not[or][1][age][lt]=18", "ann cyd eve"),  # neither
        ("and[0][or][0][name]=Ann&and[0][or][1][name]=Bob&and[1][or][0][age]=17&and[1][or][1][zip]=9", "bob"),
        ("or[0][not][name][contains]=n&or[1][.x]=loose", "bob cyd eve"),
        ("or[0][address.city]=Bonn&or[1][.or]=else", "bob eve"),
        (".or=else", "eve"),
    ],
)
def test_or_and_and_not_join_filters(query, found):
    assert _found(query) == found.split()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("q=LODZ", "eve"),
        ("q=%C5%81%C3%B3d%C5%BA", "eve"),
        ("q=nn", "ann bob dan"),
        ("q=ann+sql", "ann dan"),  # each of the words, in any text
        ("q=ann&q=git", "ann"),
        ("q=berlin", "cyd"),  # in a table
        ("q=1990", ""),  # a date is no text
        ("q=", "ann bob cyd dan eve"),
        ("q=nn&age[gt]=60", "dan"),
    ],
)
def test_words_are_searched_in_all_texts(query, found):
    assert _found(query) == found.split()


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Straße", "strasse"),
        ("Ærø", "aero"),
        ("ΣΊΣΥΦΟΣ", "σισυφοσ"),
        ("İzmir", "izmir"),
        ("ﬁ ℌ", "fi h"),
        ("Ngũgĩ", "ngugi"),
    ],
)
def test_text_is_folded_as_people_type_it(text, folded):
    assert fold(text) == folded
    assert fold(folded) == folded


def test_joined_filters_keep_the_order_of_the_list():
    assert _found("or[0][name]=Cyd&or[1][name]=Bob&sort=-name") == ["cyd", "bob"]


def test_a_kept_order_serves_every_filter():
    """
    Ties stay in the order of paths, also in descending order; records without the field come last.
    """
    kept = Table([(f"{n:02}", {"name": "x", "age": n % 3}) for n in range(40)], may_keep=lambda *_: True)
    kept[5] = ("05", {"name": "x"})
    loose = Table(kept)
    for sort in ("age", "-age", "-age,name", "name,-age"):
        for rule in ("", "&age[exists]=true", "&age[gte]=1", "&age[exists]=false"):
            query = _query(f"sort={sort}{rule}")
            assert query.select(kept) == query.select(kept) == query.select(loose)
    assert len([name for name in kept._kept if "order" in name]) == 4
    paths = [path for path, _ in _query("sort=-age").select(kept)]
    assert paths == [f"{n:02}" for rest in (2, 1, 0) for n in range(40) if n % 3 == rest and n != 5] + ["05"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("q=" + "+".join(map(str, range(21))), "q: has more than 20 words"),
        ("or=5", "or: write or[0][name]=A&or[1][age][lt]=18, and .or for a field"),
        ("or[][name]=A", "is not a field"),
        ("or[0]=A", "or[0]: write or[0][name]=A"),
        ("or[name]=A", "or[name]: write or[0][name]=A"),
        ("not=A", "not: write not[name]=A"),
        ("or[0][nmae]=A", "or[0][nmae]: it declares no field 'nmae'"),
        ("or[0][age][gt]=old", "or[0][age][gt]: 'old' is not a number"),
        ("born[gt]=old", "born[gt]: 'old' is not a date, such as 2026-01-31"),
        ("born=old", "born: 'old' is not a date"),
        ("open=maybe", "open: 'maybe' is not true or false"),
        ("open[gt]=false", "open[gt]: 'false' is neither more nor less"),
        ("age[gt]=nan", "age[gt]: 'nan' is neither more nor less"),
        ("age[ne]=old", "age[ne]: 'old' is not a number"),
        ("age[in]=17,old", "age[in]: 'old' is not a number"),
        ("scores=old", "scores: 'old' is not a number"),
        ("age[exists]=yes", "age[exists]: takes true or false"),
        ("name[startwith]=A", "did you mean startswith?; use one of eq, ne, in"),
        ("name[gt][lt]=A", "unknown operator 'gt][lt'"),
        ("nott[name]=A", "did you mean not?"),
        ("not[not][not][not][not][not][name]=A", "has more than 5 of or, and, not in each other"),
    ],
)
def test_a_query_that_means_nothing_is_refused(query, said):
    with pytest.raises(Problem) as refused:
        _query(query)
    assert said in refused.value.detail
    assert refused.value.members["parameter"] == query.partition("=")[0]


def test_deep_and_wide_conditions_are_bounded_together():
    deep = "not[or][{0}][and][0][or][{0}][name]=A"
    assert _found("&".join(deep.format(number) for number in range(50))) == list(PEOPLE)
    with pytest.raises(Problem, match="more than 50"):
        _query("&".join(deep.format(number) for number in range(51)))
