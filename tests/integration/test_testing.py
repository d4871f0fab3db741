"""
``ferry.testing``, as the author of an extension uses it.
"""

from __future__ import annotations

import sys

import pytest

import ferry.testing as plugin
from ferry.testing import NotPushed, ferry, ferry_files, ferry_settings

__all__ = ["ferry", "ferry_files", "ferry_settings"]  # fixtures

PEOPLE = "/api/sheets/people/records"
TOWN = """\
import os
import ferry

town = ferry.Extension("town")
GREETING = os.environ["TOWN_GREETING"]

@town.before_write("people")
def only_their_own(write):
    if write.caller.name not in ("tester", write.path):
        raise ferry.Refused("not yours", code="not-yours", status=403)

@town.authenticate
def by_cookie(request):
    name = request.cookies.get("town")
    return ferry.Caller(name) if name else None

told = []

@town.after_commit
def committed(commit):
    told.append((commit.author, [(change.operation, change.path) for change in commit.changes]))

@town.after_push
def landed(landing):
    told.append([commit.message.splitlines()[0] for commit in landing.commits])

@town.after_divergence
def diverged(divergence):
    told.append(divergence.remote)

@town.route("/api/town/hello")
def hello(caller):
    return {"said": f"{GREETING}, {caller.name}"}
"""


@pytest.fixture
def _town(tmp_path, monkeypatch):
    (tmp_path / "town_under_test.py").write_text(TOWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("CFP_NOT_A_SETTING", "of the person who runs the tests")
    yield
    sys.modules.pop("town_under_test", None)


@pytest.fixture
def ferry_settings(_town):  # noqa: F811
    return {"CFP_API_EXTENSIONS": "town_under_test", "TOWN_GREETING": "Hello"}


def test_the_public_names_are_these():
    assert set(plugin.__all__) == {
        "Commit", "Ferry", "NotPushed", "Repository", "ferry", "ferry_files", "ferry_settings",
    }  # fmt: skip


def test_a_write_reaches_the_remote_when_the_test_pushes(ferry):
    assert ferry.remote.head == ferry.data.head

    answer = ferry.client.put(f"{PEOPLE}/jane", json={"slug": "jane", "name": "Jane"})

    assert (answer.status_code, answer.json["commit"]["push"]) == (201, {"origin": "pending"})
    assert "people/jane.toml" not in ferry.remote.files()
    ferry.push()
    assert ferry.remote.record("people/jane.toml") == {"slug": "jane", "name": "Jane"}
    assert (ferry.remote.log()[0].author, len(ferry.remote.log())) == ("tester", 3)
    told = sys.modules["town_under_test"].told
    assert told == [("tester", [("create", "jane")]), [ferry.remote.log()[0].subject]]
    ferry.push()  # nothing is left to do
    assert len(told) == 2


def test_rules_logins_and_routes_apply(ferry):
    record = {"slug": "jane", "name": "Jane"}
    assert ferry.anonymous().post(PEOPLE, json=record).status_code == 401
    assert ferry.client_of("bob").post(PEOPLE, json=record).json["code"] == "not-yours"
    assert ferry.client_of("jane", ["write:events"]).post(PEOPLE, json=record).json["code"] == "scope-missing"
    assert ferry.client_of("jane", ["write:people"]).post(PEOPLE, json=record).status_code == 201

    visitor = ferry.anonymous()
    visitor.set_cookie("town", "ana")
    assert visitor.get("/api/town/hello").json == {"said": "Hello, ana"}


def test_what_somebody_pushes_is_followed(ferry):
    assert ferry.remote.commit({"people/bo.toml": 'name = "Bö"\nslug = "bo"\n'}) == ferry.remote.head
    ferry.follow()
    assert ferry.client.get(f"{PEOPLE}/bo").json["record"]["name"] == "Bö"


def test_a_push_that_the_remote_refuses_says_why(ferry):
    ferry.remote.commit({"people/bo.toml": None, "README.md": "theirs\n"}, author="Ana")
    ferry.client.post(PEOPLE, json={"slug": "jane", "name": "Jane"})
    with pytest.raises(NotPushed) as refused:
        ferry.push()
    assert refused.value.reason == "non-fast-forward"
    assert sys.modules["town_under_test"].told[-1] == "origin"
    assert ferry.remote.log()[0].author == "Ana"


def test_a_file_that_is_not_there_is_an_error(ferry):
    with pytest.raises(FileNotFoundError):
        ferry.remote.read("people/nobody.toml")
    with pytest.raises(RuntimeError, match="git show"):
        ferry.data.git("show", "nothing")


class TestFiles:
    """
    A data repository of the test's own.
    """

    @pytest.fixture
    def ferry_files(self, tmp_path):
        (tmp_path / "data/.gitsheets").mkdir(parents=True)
        (tmp_path / "data/.gitsheets/notes.toml").write_text(
            "[gitsheet]\nroot = 'notes'\npath = '${{ slug }}'\n"
        )
        return tmp_path / "data"

    def test_a_repository_begins_with_the_files_of_a_directory(self, ferry):
        assert ferry.client.get("/api/sheets").json["sheets"][0]["name"] == "notes"
        assert ferry.remote.files() == [".gitsheets/notes.toml"]
