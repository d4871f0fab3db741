"""
The pages with the data, as somebody sees them whose browser runs no JavaScript.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex
from urllib.parse import urljoin, urlsplit

import pytest

from ferry.app import create_app
from ferry.app.browse.differences import MOST_FIELDS
from ferry.app.browse.values import MOST_CHARACTERS, MOST_VALUES
from ferry.app.replica.following import Following
from tests.pages import Browser
from tests.parts import wait_until

PEOPLE = "/api/sheets/people/records"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\" ' & {{ 7 * 7 }}"
HTML = {"Accept": "text/html"}
TITLED = """\
[gitsheet]
root = 'boats'
path = '${{ key }}'

[gitsheet.schema]
type = 'object'
title = 'Boats of the harbour'
required = ['key']
description = 'Each with its berth.'

[gitsheet.schema.properties.key]
type = 'string'

[gitsheet.schema.properties.name]
type = 'string'
title = 'Name of the boat'
description = 'As painted on it.'

[gitsheet.schema.properties.berth]
type = 'object'
title = 'Berth'

[gitsheet.schema.properties.berth.properties.pier]
type = 'integer'
title = 'Pier'
"""


@pytest.fixture
def browser(client):
    return Browser(client())


@pytest.fixture
def guarded(env):
    """
    Somebody before an API whose reads need a token: ana may read all of it, bo the people.
    """
    tokens = {"ana": "", "bo": "::people"}
    known = " ".join(
        f"{name}:{hashlib.sha256(name.encode()).hexdigest()}{scope}" for name, scope in tokens.items()
    )
    settings = {"CFP_API_READ": "token", "CFP_API_TOKENS": known, "CFP_REDIS_URL": "redis://127.0.0.1:1/0"}
    return lambda **more: Browser(create_app({**env, **settings, **more}).test_client())


def _put(browser, path, **record):
    sheet, _, rest = path.partition("/")
    answer = browser.client.put(f"/api/sheets/{sheet}/records/{rest}", json=record)
    assert answer.status_code in (200, 201), answer.text
    return answer.json["commit"]["hash"]


def _lines(browser, name="curl"):
    """
    Return the commands in the block *name* of the page that is open, each in its words.
    """
    found = re.search(rf'<pre [^>]*id="{name}">(.*?)</pre>', browser.answer.text, re.DOTALL)
    text = found[1].replace("&#39;", "'").replace("&#34;", '"').replace("&amp;", "&")
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines()]


def _run(browser, words):
    """
    Do what a ``curl`` line does.
    """
    url = urlsplit(next(word for word in words if word.startswith("http")))
    headers = dict(each.split(": ", 1) for name, each in itertools.pairwise(words) if name == "-H")
    method = words[words.index("-X") + 1] if "-X" in words else "GET"
    body = words[words.index("-d") + 1] if "-d" in words else None
    return browser.client.open(f"{url.path}?{url.query}", method=method, headers=headers, data=body)


# --- From page to page ---


def test_the_first_page_leads_to_everything_and_everything_leads_back(browser):
    commit = _put(browser, "people/jane", slug="jane", name="Jane")
    page = browser.open("/")
    assert "people 21" in page.text
    assert "places 12" in page.text
    assert f"{commit[:10]} by dev" in page.text
    assert [_run(browser, line).status_code for line in _lines(browser)] == [200, 200]
    for words, back in (("Status", "Data"), ("API", "Data"), ("people", "Data")):
        there = browser.follow(browser.open("/"), words)
        assert browser.answer.status_code == 200
        assert "The data on main" in browser.follow(there, back).text
    assert browser.client.get("/browse").headers["Location"] == "/"


def test_a_repository_without_commits_has_a_first_page(env, data):
    data.git("update-ref", "-d", "refs/heads/main")
    page = Browser(create_app(env, open_access=True).test_client()).open("/")
    assert "The repository declares no sheet." in page.text


def test_a_newcomer_changes_a_record_by_the_line_on_its_page_and_sees_it_arrive(browser, worker):
    worker()
    page = browser.follow(browser.open("/"), "people")
    page = browser.press(page, "Filter", field="name", operator="contains", value="Quill")
    assert "Records 1 to 1 of 1." in page.text
    browser.follow(page, "ada-quill")
    [line] = _lines(browser, "curl-change")
    commit = _run(browser, line).json["commit"]["hash"]
    made = f"{commit[:10]} by dev,"
    said = "origin: ✓ pushed name was Ada Quill is Ada Quill, changed"

    def shows_it():
        text = browser.open("/browse/people/records/ada-quill").text
        return made in text and said in text

    wait_until(shows_it, what="a page that says it has arrived")


# --- A sheet ---


def test_a_sheet_is_a_table_that_sorts_filters_and_turns_pages(browser):
    page = browser.open("/browse/people?limit=8")
    assert "Records 1 to 8 of 20." in page.text
    page = browser.follow(page, "name")
    page = browser.follow(page, "name ▲")
    assert ("th", {"scope": "col", "aria-sort": "descending"}) in page.tags
    page = browser.press(page, "Filter", field="joined_year", operator="gte", value="2016")
    assert "joined_year ≥ 2016" in page.text
    assert "Records 1 to 8 of 18." in page.text
    page = browser.follow(page, "Next")
    assert "Records 9 to 16 of 18." in page.text
    assert _run(browser, _lines(browser)[0]).json["records"][0]["path"] in page.text
    assert "Records 1 to 8 of 18." in browser.follow(page, "Previous").text
    assert "Records 1 to 8 of 18." in browser.follow(page, "First").text
    assert "of 20." in browser.follow(page, "Remove the filter joined_year ≥ 2016").text


def test_a_search_keeps_the_filters_and_is_left_again(browser):
    page = browser.open("/browse/people?joined_year=2015&sort=name")
    page = browser.press(page, "Search", q="QUÍLL")
    assert "Records 1 to 1 of 1." in page.text
    assert "joined_year is 2015" in page.text
    assert _run(browser, _lines(browser)[0]).json["total"] == 1
    assert "Records 1 to 2 of 2." in browser.follow(page, "Show all").text
    assert "No record is found." in browser.press(page, "Search", q="nowhere").text
    assert "path is jane" in browser.open("/browse/people?path=jane").text


def test_what_a_table_shows_is_what_its_curl_line_answers(browser):
    for query in (
        "",
        "?limit=3&sort=-name",
        "?skills=music&fields=name,email",
        "?not[name][startswith]=A&limit=2",
    ):
        page = browser.open(f"/browse/people{query}")
        [line] = _lines(browser)
        listed = _run(browser, line).json["records"]
        paths = [said for said, address in page.links if address.startswith("/browse/people/records/")]
        assert [each["path"] for each in listed] == paths


def test_all_that_a_table_finds_is_had_as_csv(browser):
    browser.follow(browser.open("/browse/people?limit=2&skills=music&sort=-name&fields=name"), "All as CSV")
    assert browser.answer.mimetype == "text/csv"
    lines = browser.answer.text.splitlines()
    assert lines[0] == "name"
    assert lines[1:] == sorted(lines[1:], reverse=True)
    assert len(lines) > 3


def test_columns_are_chosen_and_kept(browser):
    page = browser.open("/browse/people?joined_year=2015")
    assert [said for said, _ in page.links if said in ("slug", "email")] == [
        "email"
    ]  # the path says the slug
    page = browser.open("/browse/people?joined_year=2015&fields=slug&fields=skills")
    assert [said for said, address in page.links if "sort=" in address] == ["slug", "skills"]
    assert "name" not in [said for said, address in browser.follow(page, "slug").links if "sort=" in address]


def test_a_field_that_no_schema_declares_is_a_column_and_can_be_filtered(browser):
    _put(browser, "people/jane", slug="jane", name="Jane", colour="red", **{"a.b": 1, "limit": "none"})
    page = browser.open("/browse/people?slug=jane")
    assert "red" in page.text
    page = browser.press(page, "Filter", field=".colour", operator="eq", value="red")
    assert "Records 1 to 1 of 1." in page.text
    page = browser.press(page, "Filter", field=".limit", operator="eq", value="none")
    assert "Records 1 to 1 of 1." in page.text
    assert "a.b" not in page.text  # a query cannot name it


def test_a_filter_that_only_asks_whether_a_field_is_there_needs_no_value(browser):
    page = browser.open("/browse/people")
    page = browser.press(page, "Filter", field="email", operator="exists", value="")
    assert "Records 1 to 20 of 20." in page.text


def test_a_query_of_a_thousand_values_is_a_page_of_a_bounded_size(browser):
    browser.open("/browse/people?" + "&".join(["name=x"] * 1000))
    assert browser.answer.status_code == 200
    assert len(browser.answer.data) < 1_000_000
    browser.open(f"/browse/people?q={'x' * 1001}")
    assert browser.answer.status_code == 400


def test_an_address_with_a_slash_at_its_end_and_a_wrong_commit_are_pages(browser):
    assert "Records 1 to 20 of 20." in browser.open("/browse/people/").text
    assert browser.client.get("/browse/").headers["Location"] == "/"
    answer = browser.client.get("/browse/commits/zzz", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.mimetype) == (404, "text/html")


def test_a_record_that_cannot_be_read_is_named(browser, data):
    data.edit({"people/broken.toml": "not = [toml"})
    page = browser.open("/browse/people")
    assert "Records that cannot be read: 1 broken : " in page.text
    page = browser.follow(page, "broken")
    assert browser.answer.status_code == 200
    assert "cannot be read" in page.text


def test_no_link_leads_to_a_file_whose_name_is_no_text(browser, data):
    data.edit({'"people/caf\\351.toml"': 'slug = "caf"\nname = "Caf"\n'})
    page = browser.open("/browse/people")
    assert "Records that cannot be read: 1 caf\\xe9 : has a name that is not UTF-8" in page.text
    links = page.links
    page = browser.open(f"/browse/commits/{data.head()}")
    assert "changed" in page.text
    for _, address in [*links, *page.links]:
        browser.open(urljoin("/browse/people", address))
        assert browser.answer.status_code == 200, address


def test_a_sheet_that_is_misconfigured_does_not_hide_the_others(browser, data):
    data.edit({".gitsheets/people.toml": "[gitsheet]\npath = 1\n"})
    page = browser.open("/")
    assert "people ! not shown The sheet 'people' cannot be used" in page.text
    assert "places 12" in page.text
    declaration = "[gitsheet]\nroot = 'odd'\npath = '${{ key }}'\nschema = true\n"
    data.edit({".gitsheets/odd.toml": declaration, "odd/a.toml": 'key = "a"\n'})
    assert "odd / a added Created the record: key is a" in browser.open(f"/browse/commits/{data.head()}").text


# --- A record ---


def test_a_record_has_its_schemas_titles(browser, data):
    data.edit({".gitsheets/boats.toml": TITLED})
    _put(browser, "boats/a", key="a", name="Ada", berth={"pier": 3}, note="x")
    assert "boats 1 Boats of the harbour Each with its berth." in browser.open("/").text
    assert "Boats of the harbour Each with its berth." in browser.open("/browse/boats").text
    page = browser.open("/browse/boats/records/a")
    assert "key a Name of the boat name As painted on it. Ada Berth berth Pier pier 3 note x" in page.text
    assert "Berth / Pier" not in page.text
    _put(browser, "boats/a", key="a", name="Ada", berth={"pier": 4})
    page = browser.open("/browse/boats/records/a")
    assert "Berth / Pier was 3 is 4 note was x removed" in page.text


def test_a_record_shows_its_attachments_and_what_it_was(browser):
    first = _put(browser, "people/jane", slug="jane", name="Jane")
    _put(browser, "people/jane", slug="jane", name="Jane Doe")
    browser.client.put(f"{PEOPLE}/jane/attachments/a photo.png", data=b"png")
    page = browser.open("/browse/people/records/jane")
    assert "a photo.png image/png, 3 bytes" in page.text
    browser.follow(page, "a photo.png")
    assert browser.answer.data == b"png"
    assert browser.answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    browser.client.put(f"{PEOPLE}/jane/attachments/a.html", data=b"<p>x")
    browser.open("/browse/people/attachments/jane/a.html")
    assert browser.answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'", (
        "no page of ours"
    )
    page = browser.open("/browse/people/records/jane")
    assert "name was Jane is Jane Doe" in page.text
    page = browser.open(f"/browse/people/records/jane?at={first}")
    assert f"As it was at the commit {first[:10]}" in page.text
    assert "Jane Doe" not in page.text
    assert _run(browser, _lines(browser)[0]).json["record"]["name"] == "Jane"


def test_a_record_that_was_removed_has_a_history(browser):
    _put(browser, "people/jane", slug="jane", name="Jane")
    browser.client.delete(f"{PEOPLE}/jane")
    page = browser.open("/browse/people/records/jane")
    assert browser.answer.status_code == 404
    assert "This record was removed." in page.text
    assert "Removed the record." in page.text
    assert browser.open("/browse/people/records/nobody", headers=HTML)
    assert browser.answer.status_code == 404


def test_a_long_history_has_pages(browser):
    for number in range(12):
        _put(browser, "people/jane", slug="jane", name=f"Jane {number}")
    page = browser.open("/browse/people/records/jane")
    assert "is Jane 2" in page.text
    assert "is Jane 1 " not in page.text
    older = browser.follow(page, "Older")
    assert "is Jane 1 " in older.text
    history = _run(browser, _lines(browser)[1]).json["history"]
    assert [each["hash"][:10] in older.text for each in history] == [True, True]
    assert "is Jane 11" in browser.follow(older, "Newest").text


def test_what_is_too_much_for_a_page_is_cut_and_counted(browser):
    text, many = "x" * (MOST_CHARACTERS + 7), list(range(MOST_VALUES + 5))
    wide = {f"f{number:03}": number for number in range(MOST_FIELDS + 2)}
    _put(browser, "people/jane", slug="jane", name=text, many=many, wide=wide)
    page = browser.open("/browse/people/records/jane")
    assert "7 more characters: curl shows all." in page.text
    assert "more items: curl shows all." in page.text
    assert len(browser.answer.data) < 200_000
    assert len(browser.open("/browse/people?slug=jane").text) < 5_000


# --- A commit ---


def test_a_commit_shows_what_it_changed(browser, data):
    operations = [
        {"op": "upsert", "sheet": "people", "record": {"slug": "jane", "name": "Jane"}},
        {"op": "patch", "sheet": "places", "path": "hill/library", "record": {"seats": 7}},
        {"op": "delete", "sheet": "people", "path": "ada-quill"},
    ]
    body = {"message": "Spring cleaning", "operations": operations}
    commit = browser.client.post("/api/transactions", json=body).json["commit"]["hash"]
    page = browser.follow(browser.open("/"), commit[:10])
    assert "Spring cleaning" in page.text
    assert "origin: … pending" in page.text
    assert "people / jane added Created the record: name is Jane slug is jane" in page.text
    assert re.search(r"places / hill/library changed seats was \d+ is 7", page.text)
    assert "people / ada-quill removed Removed the record." in page.text
    document, changes = (_run(browser, line).json for line in _lines(browser))
    assert document["hash"] == commit
    assert len(changes["changes"]) == 3
    browser.follow(page, "places / hill/library")
    assert browser.answer.status_code == 200
    root = data.git("rev-list", "--max-parents=0", "main")
    assert ".gitsheets/people.toml added" in browser.open(f"/browse/commits/{root}").text
    assert browser.open(f"/browse/commits/{'0' * 40}", headers=HTML)
    assert browser.answer.status_code == 404


def test_a_commit_that_moved_a_record_says_from_where_to_where(browser):
    _put(browser, "people/jane", slug="jane", name="Jane")
    browser.client.put(f"{PEOPLE}/jane/attachments/a.png", data=b"png")
    commit = _put(browser, "people/jane", slug="jane-doe", name="Jane")
    page = browser.open(f"/browse/commits/{commit}")
    assert "people / jane-doe moved Moved from people / jane. slug was jane is jane-doe" in page.text
    assert "people / jane moved Moved to people / jane-doe." in page.text
    assert "Moved from people / jane, attachment a.png." in page.text
    assert "Removed the record." not in page.text
    listed = {each["file"]: each for each in _run(browser, _lines(browser)[1]).json["changes"]}
    assert listed["people/jane-doe.toml"]["moved_from"] == "people/jane.toml"
    assert listed["people/jane-doe.toml"]["patch"] == [
        {"op": "replace", "path": "/slug", "value": "jane-doe"}
    ]
    assert listed["people/jane.toml"]["moved_to"] == "people/jane-doe.toml"


def test_records_of_two_sheets_that_are_alike_did_not_move(browser, data):
    data.edit({".gitsheets/boats.toml": TITLED})
    _put(browser, "people/same", slug="same", name="The name of it, which is long", key="same")
    operations = [
        {"op": "delete", "sheet": "people", "path": "same"},
        {
            "op": "create",
            "sheet": "boats",
            "record": {"key": "same", "name": "The name of it, which is long", "slug": "same"},
        },
    ]
    commit = browser.client.post("/api/transactions", json={"operations": operations}).json["commit"]["hash"]
    page = browser.open(f"/browse/commits/{commit}")
    assert "people / same removed Removed the record." in page.text
    assert "boats / same added Created the record:" in page.text


# --- Hostile content ---


def test_content_is_text_wherever_it_stands(browser, data):
    """
    Names of sheets, fields, records and attachments, values, schemas, authors and messages.
    """
    declaration = {"root": "h", "path": "${{ key }}", "schema": {"title": HOSTILE, "description": HOSTILE}}
    declaration["schema"]["required"] = ["key"]
    declaration["schema"]["properties"] = {"key": {"title": HOSTILE}, "v": {"description": HOSTILE}}
    name = 'h"<script>x'
    key = "<script>alert(3)<"
    record = {"key": key, "v": HOSTILE, HOSTILE: [HOSTILE, {HOSTILE: "javascript:alert(4)"}], "w": "a\u202eb"}
    data.edit(
        {
            f".gitsheets/{name}.toml": f"gitsheet = {_toml(declaration)}\n",
            f"h/{key}.toml": "".join(
                f"{json.dumps(name)} = {_toml(each)}\n" for name, each in record.items()
            ),
            f"h/{key}/<script>.png": "x",
        }
    )
    tree = data.git("rev-parse", "main^{tree}")
    made = data.git(
        "-c", "user.email=a@b", "-c", f"user.name={HOSTILE}", "commit-tree", "-p", "main", "-m", HOSTILE, tree
    )
    data.git("update-ref", "refs/heads/main", made)
    changed = data.git("rev-parse", "main^")
    addresses = [
        "/", f"/browse/{name}", f"/browse/{name}?v={HOSTILE.replace('&', '%26')}", f"/browse/{name}?{key}=1",
        f"/browse/{name}/records/{key}", f"/browse/commits/{made}", f"/browse/commits/{changed}",
        f"/browse/{HOSTILE.replace('/', '')}", f"/browse/{name}?cursor={key}",
    ]  # fmt: skip
    for address in addresses:
        page = browser.open(address, headers=HTML)
        assert {tag for tag, _ in page.tags}.isdisjoint({"script", "style", "iframe", "object"}), address
        assert not [given for _, given in page.tags if any(each.startswith("on") for each in given)], address
        assert not [to for _, to in page.links if not re.match(r"[/?#]|https?://", to)], address
        assert "\u202e" not in browser.answer.text
        policy = browser.answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'")
        assert "script" not in policy
    assert HOSTILE in browser.open(f"/browse/{name}/records/{key}").text


def _toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)


# --- Who may read ---


def test_where_reads_need_a_token_a_form_takes_it_and_a_cookie_stands_for_it(guarded):
    browser = guarded()
    page = browser.open("/browse/people?limit=2", headers=HTML)
    assert browser.answer.status_code == 401
    assert "people" not in page.text
    assert "That token is not known." in browser.press(page, "Sign in", token="nobody").text
    page = browser.press(page, "Sign in", token="ana")
    assert "Records 1 to 2 of 20." in page.text
    cookie = browser.client.get_cookie("ferry_reader")
    assert cookie.http_only
    assert cookie.same_site == "Lax"
    [line] = _lines(browser)
    assert "Authorization: Bearer $TOKEN" in line
    for address in ("/docs", "/openapi.json"):
        assert browser.client.get(address).status_code == 200
    for address in (PEOPLE, "/api/commits", "/api/events"):
        assert browser.client.get(address).status_code == 401, "the API takes no cookie"
    assert browser.client.put(f"{PEOPLE}/x", json={"slug": "x", "name": "X"}).status_code == 401
    page = browser.press(browser.open("/"), "Sign out")
    assert browser.open("/", headers=HTML).form("Sign in")


@pytest.mark.parametrize("address", ["/docs", "/openapi.json"])
def test_the_page_of_the_api_asks_for_the_token_too(guarded, address):
    browser = guarded()
    answer = browser.client.get(address)
    assert (answer.status_code, answer.json["code"]) == (401, "unauthorized"), "a program gets a document"
    page = browser.open(address, headers=HTML)
    assert browser.answer.status_code == 401
    assert "script" not in browser.answer.headers["Content-Security-Policy"]
    browser.press(page, "Sign in", token="ana")
    assert (browser.answer.status_code, browser.answer.request.path) == (200, address)


def test_a_page_shows_what_the_token_may_read(guarded):
    browser = guarded()
    page = browser.press(browser.open("/", headers=HTML), "Sign in", token="bo")
    assert "people 20" in page.text
    assert "places ! not shown Your token may not read it." in page.text
    assert "Latest commits" not in page.text
    assert browser.open("/browse/people/records/ada-quill").text
    assert browser.answer.status_code == 200
    for address in ("/browse/places", "/browse/places/records/hill/library", f"/browse/commits/{'0' * 40}"):
        assert "may not read" in browser.open(address, headers=HTML).text
        assert browser.answer.status_code == 403


def test_a_token_in_the_header_does_too(guarded):
    browser = guarded()
    assert "people 20" in browser.open("/", headers={"Authorization": "Bearer ana"}).text


def test_a_token_that_is_withdrawn_signs_its_browsers_out(guarded):
    browser = guarded()
    browser.press(browser.open("/", headers=HTML), "Sign in", token="ana")
    cookie = browser.client.get_cookie("ferry_reader").value
    for tokens in ("bo:" + hashlib.sha256(b"bo").hexdigest(), "ana:" + hashlib.sha256(b"new").hexdigest()):
        other = guarded(CFP_API_TOKENS=tokens)
        other.client.set_cookie("ferry_reader", cookie)
        assert other.open("/", headers=HTML)
        assert other.answer.status_code == 401
    for wrong in ("", "x", cookie[:-4] + "AAAA"):
        browser.client.set_cookie("ferry_reader", wrong)
        assert browser.open("/", headers=HTML)
        assert browser.answer.status_code == 401


@pytest.mark.parametrize(
    "back", ["https://evil.example/", "//evil.example", "/\\evil.example", "/status", "x"]
)
def test_signing_in_leads_to_these_pages_alone(guarded, back):
    answer = guarded().client.post("/browse/sign-in", data={"token": "ana", "back": back})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")


def test_a_page_of_another_site_signs_nobody_in_or_out(guarded):
    client = guarded().client
    for address in ("/browse/sign-in", "/browse/sign-out"):
        answer = client.post(address, data={"token": "ana"}, headers={"Sec-Fetch-Site": "cross-site"})
        assert answer.status_code == 403
        assert "Set-Cookie" not in answer.headers


def test_programs_get_problem_documents(browser):
    answer = browser.client.get("/browse/nope")
    assert (answer.status_code, answer.json["code"]) == (404, "sheet-not-found")


def test_a_replica_has_the_pages_and_sends_changes_to_the_primary(replica_env, monkeypatch):
    monkeypatch.setattr(Following, "start", lambda following: None)
    for primary, shown in (("https://records.town.example", True), ("", False)):
        settings = {"CFP_API_PRIMARY_URL": primary, "CFP_API_PUBLIC_URL": "https://near.town.example"}
        browser = Browser(create_app({**replica_env, **settings}, open_access=True).test_client())
        page = browser.open("/browse/people/records/ada-quill")
        assert f"curl https://near.town.example{PEOPLE}/ada-quill" in page.text
        assert (f"https://records.town.example{PEOPLE}/ada-quill" in page.text) == shown
