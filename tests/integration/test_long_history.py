"""
What an answer costs does not grow with the history behind it: counted in git's own steps, not in seconds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gitsheets
import pytest

from ferry.app.services import EXTENSION, Services
from ferry.worker.git import commit_graph, repository
from ferry.worker.git.objects import Objects
from ferry.worker.git.packing import Maintenance
from ferry.worker.git.packs import Packs
from tests import level, nursery
from tests.parts import Bare, clean_environment

COMMITS, FILES = 2500, 100
PEOPLE = "/api/sheets/people/records"


@pytest.fixture(scope="module")
def _grown(_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bare = Bare.copy(_sample, tmp_path_factory.mktemp("grown") / "data.git")
    bare.grow(COMMITS, files=FILES)
    return bare.path


@pytest.fixture
def data(tmp_path: Path, _grown: Path) -> Bare:
    return Bare.like(_grown, tmp_path / "data.git")


@pytest.fixture
def api(env, client):
    """
    An API with a mirror that was never reached.
    """
    env["CFP_DATA_MIRRORS"] = "mirror=/nowhere/mirror.git"
    env["CFP_PUSH_SWEEP_INTERVAL"] = "600"  # or its watchdog would ask git in the midst of a test
    return client()


@pytest.fixture
def built(api) -> Services:
    return api.application.extensions[EXTENSION]


def _words(asked) -> list[str]:
    return [next(word for word in command if not word.startswith("-")) for command in asked]


def test_status_metrics_and_sweep_walk_no_history_for_a_mirror_that_is_away(api, built, asked):
    """
    Once it is known how much it lacks, that is brought forward.
    """
    pipeline = built.pipeline
    first = api.get("/api/_internal/push").json["remotes"]["mirror"]
    assert first["pending_commits"] == COMMITS + 2
    asked.clear()

    answer = api.put(f"{PEOPLE}/jane", json={"slug": "jane", "name": "Jane"})
    status = api.get("/api/_internal/push").json["remotes"]["mirror"]
    assert api.get("/metrics").status_code == api.get("/status").status_code == 200
    pipeline.sweeper.sweep()
    pipeline.watchdog.check()

    assert answer.json["commit"]["push"]["mirror"] == "pending"
    assert status["pending_commits"] == COMMITS + 3
    assert status["oldest_pending_at"] == first["oldest_pending_at"]
    assert "rev-list" not in _words(asked)


def test_a_page_of_commits_is_one_walk(api, built, data: Bare, asked):
    """
    Whichever page it is, and whatever remotes have of it.
    """
    half = data.git("rev-parse", "main~1500")
    built.pipeline.repository.saw_on_remote("origin", half)
    url, states = "/api/commits?limit=1000", []
    answer = api.get(url).json
    while True:
        states += [commit["push"] for commit in answer["commits"]]
        if not answer["next_cursor"]:
            break
        asked.clear()
        answer = api.get(f"{url}&cursor={answer['next_cursor']}").json
        assert _words(asked).count("log") == 1
        assert "rev-list" not in _words(asked)
    assert states[:1500] == 1500 * [{"origin": "pending", "mirror": "pending"}]
    assert states[1500:] == (COMMITS + 2 - 1500) * [{"origin": "pushed", "mirror": "pending"}]


def test_the_history_of_a_record_reads_the_paths_that_maintenance_wrote_down(
    api, built, data: Bare, tmp_path: Path, monkeypatch
):
    """
    git looks into no commit that changed another record, which its own trace tells.
    """
    assert built.pipeline.maintenance.is_due()
    assert built.pipeline.maintenance.run().startswith("packed")
    assert not built.pipeline.maintenance.is_due()
    monkeypatch.setattr(gitsheets, "blob_read", lambda *_: pytest.fail("the interpreter is held for each"))
    assert api.get(f"{PEOPLE}/visitor-7/history").status_code == 200
    trace = tmp_path / "trace"
    monkeypatch.setenv("GIT_TRACE2_EVENT", str(trace))

    found = api.get(f"{PEOPLE}/visitor-7/history?limit=1000").json["history"]

    assert len(found) == COMMITS // FILES
    assert found[0]["patch"] == [{"op": "replace", "path": "/name", "value": f"Visit {COMMITS - FILES + 7}"}]
    assert found[-1]["patch"][0]["op"] == "add"
    events = map(json.loads, trace.read_text().splitlines())
    [told] = [event["value"] for event in events if event.get("category") == "bloom"]
    assert told["definitely_not"] > 0.9 * COMMITS
    assert told["filter_not_present"] <= 1


def test_a_commit_graph_without_paths_is_made_anew(data: Bare, built):
    """
    Earlier releases wrote such.
    """
    maintenance: Maintenance = built.pipeline.maintenance
    data.git("commit-graph", "write", "--reachable", "--split")
    assert not commit_graph.has_paths(data.path)
    assert maintenance.is_due()

    maintenance.run()
    data.commit("later")
    Packs(built.pipeline.repository.git).write_commit_graph(timeout_s=60)

    assert commit_graph.has_paths(data.path)
    data.git("commit-graph", "verify")


@pytest.mark.parametrize("content", [b"", b"CGPH", b"CGPH\1\1\3", b"nothing of the kind"])
def test_a_damaged_commit_graph_has_no_paths(data: Bare, content: bytes):
    (data.path / "objects" / "info").mkdir(exist_ok=True)
    (data.path / "objects" / "info" / "commit-graph").write_bytes(content)
    assert not commit_graph.has_paths(data.path)


def test_flower_remembers_as_many_tasks_as_its_memory_holds(env):
    """
    As ``celery -A ferry.worker flower`` reads its options.
    """
    script = (
        "import sys; sys.argv = ['celery', '-A', 'ferry.worker', 'flower']\n"
        "import ferry.worker; ferry.worker.app.conf\n"
        "import flower.command, tornado.options\n"
        "flower.command.apply_env_options()\n"
        "print(tornado.options.options.max_tasks)"
    )
    command = [sys.executable, "-c", script]
    ran = nursery.run(command, env={**clean_environment(), **env}, timeout=120)
    assert int(ran.stdout) == 10_000


@pytest.mark.parametrize(
    ("figures", "is_rising"), [([5, 9, 9, 9, 9, 9], False), ([5, 6, 7, 9, 12, 15], True)]
)
def test_a_quantity_rises_where_it_is_higher_at_the_end(figures, is_rising):
    seen = [level.Held(50.0 * figure, 5, 5, 2, 9, 9) for figure in figures]
    assert level.rising(seen) == (["memory_mib"] if is_rising else [])


def test_a_history_tells_the_same_however_it_is_read(api, data: Bare, monkeypatch):
    """
    Of all that a file may have been: changed, no record, a link, gone, back, and merged.
    """
    url = f"{PEOPLE}/ann"

    def put(mode: str, content: str, *parents: str) -> str:
        blob = Objects(data.path).write("blob", content.encode())
        data.git("read-tree", "main")
        if mode:
            data.git("update-index", "--add", "--cacheinfo", f"{mode},{blob},people/ann.toml")
        else:
            data.feed("update-index", "--index-info", content=b"0 %b\tpeople/ann.toml\n" % (b"0" * 40))
        options = [option for parent in parents or ("main",) for option in ("-p", parent)]
        commit = data.git("commit-tree", *options, "-m", content, data.git("write-tree"))
        data.git("update-ref", "refs/heads/main", commit)
        return commit

    first = put("100644", 'name = "Ann"\nslug = "ann"\n')
    put("100644", 'name = "Bea"\nslug = "ann"\n')
    put("100644", "= no toml")
    put("120000", "somewhere")
    put("", "gone")
    put("100755", 'name = "Ann"\nslug = "ann"\n')
    put("100644", 'name = "Merged"\nslug = "ann"\n', "main", first)

    told = api.get(f"{url}/history").json["history"]
    monkeypatch.setattr(repository.Repository, "changes_of", lambda *_: {})
    one_by_one = api.get(f"{url}/history").json["history"]

    assert told == one_by_one
    assert len(told) == 7
    assert [bool(each.get("unreadable")) for each in told] == [False, False, False, True, True, False, False]
    assert told[0]["patch"] == [{"op": "replace", "path": "/name", "value": "Merged"}]
