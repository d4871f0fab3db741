"""
A replica becomes the primary, nothing that origin had is lost, and the old primary writes no more.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ferry.app import create_app
from ferry.app.cli import promote
from ferry.app.errors import FencedError
from ferry.app.replica.following import Following
from ferry.app.store.store import Store
from ferry.worker.after.hooks import Hook
from ferry.worker.bootstrap import build
from ferry.worker.errors import PushRefused, ReconcileError
from ferry.worker.failures import Verdict
from ferry.worker.files.places import fence_record, remotes_directory
from ferry.worker.git.remote import Remote
from ferry.worker.ledger import steps
from ferry.worker.ledger.operators import FERRY
from ferry.worker.repair.fence import fence_of, is_fenced, lift
from ferry.worker.repair.promote import Promoter
from ferry.worker.settings import ORIGIN
from tests.integration.test_server import PEOPLE, _start
from tests.parts import Bare


def _promoter(env) -> Promoter:
    pipeline = build(env, publisher=True)
    return Promoter(pipeline.settings, pipeline.repository, pipeline.ledger, pipeline.reconciler)


def _put(api, slug):
    return api.put(f"{PEOPLE}/{slug}", json={"slug": slug, "name": slug.title()})


def _push(env) -> None:
    """
    Make one attempt to push, as a worker does.
    """
    from ferry.worker.push import Request

    build(env).pusher.push(Request(remote=ORIGIN, chain="a task"))


def test_a_replica_takes_over_and_fences_the_old_primary(ferry, replica_env, there, copy, data):
    tip = there.head()
    done = ferry("promote", "--reason", "the disk died", **replica_env)

    assert done.returncode == 0, done.stderr
    assert "CFP_API_PRIMARY_URL is not set" in done.stdout
    assert "CFP_DATA_PUSH_MODE=sync" in done.stdout
    fence = there.head()
    assert copy.head() == fence
    assert there.git("rev-parse", f"{fence}^") == tip
    assert there.git("diff", tip, fence) == ""
    assert "Ferry-Promotion: " in there.git("log", "-1", "--format=%B", fence)


def test_the_old_primary_that_has_nothing_to_push_stops_taking_writes(
    client,
    env,
    replica_env,
    there,
    copy,
    data,
    ferry,
):
    api = client()
    assert _put(api, "jane").status_code == 201
    _push(env)
    _promoter(replica_env).promote(force=False, by=FERRY)

    build(env, publisher=True).follower.follow()

    refused = _put(api, "kim")
    assert (refused.status_code, refused.json["code"]) == (403, "not-the-primary")
    assert data.head() == there.head() == copy.head()
    assert api.get(f"{PEOPLE}/jane").status_code == 200
    assert "Another repository is the primary" in api.get("/status").text
    found = ferry("doctor").stdout
    assert "another is the primary since" in found
    assert there.head() in found


def test_what_the_old_primary_had_not_pushed_is_on_a_rescue_branch(
    client,
    env,
    replica_env,
    there,
    copy,
    data,
):
    """
    Also where it joins what diverges by itself: two primaries would go on for ever.
    """
    api = client()
    unpushed = _put(api, "jane").json["commit"]["hash"]
    fence = _promoter(replica_env).promote(force=False, by=FERRY)

    from ferry.worker.errors import NonFastForward

    with pytest.raises(NonFastForward):
        _push({**env, "CFP_DATA_RECONCILE": "auto"})

    rescued = there.git("for-each-ref", "--format=%(objectname)", "refs/heads/rescue")
    assert rescued == unpushed
    assert there.git("rev-parse", "main") == fence
    assert data.head() == unpushed
    assert fence_of(data.path).commit == fence
    assert _put(api, "kim").status_code == 403
    build({**env, "CFP_DATA_RECONCILE": "boot"}).reconciler.at_start()
    assert data.head() == unpushed


def test_the_old_one_can_be_made_the_primary_again(client, env, replica_env, there, copy, data):
    _promoter(replica_env).promote(force=False, by=FERRY)
    api = client()
    build(env, publisher=True).follower.follow()
    assert _put(api, "jane").status_code == 403

    fence = _promoter(env).promote(force=False, by=FERRY)

    assert not is_fenced(data.path)
    assert _put(api, "jane").status_code == 201
    new = build({**replica_env, "CFP_API_ROLE": "primary", "CFP_REDIS_URL": env["CFP_REDIS_URL"]})
    new.follower.follow()
    assert fence_of(copy.path).commit == fence


def _at(env, volume: Bare) -> dict[str, str]:
    return {**env, "CFP_DATA_REPO_PATH": str(volume.path)}


def _is_refused(env, volume: Bare) -> bool:
    """
    Whether the primary over *volume* takes no writes, once it has looked at origin.
    """
    build(_at(env, volume), publisher=True).follower.follow()
    return is_fenced(volume.path)


def _rewrite(there: Bare) -> None:
    """
    Make every commit of origin's branch anew, as those do who remove something from all of its history.
    """
    text = there.git("fast-export", "main").replace("\ncommitter Ferry ", "\ncommitter Rewritten ")
    there.feed("fast-import", "--quiet", "--force", content=text.encode())


def test_a_copied_volume_is_another_repository(env, there, data, tmp_path: Path):
    """
    It has everything by which the first could be known, its identity and what it remembers included.
    """
    _promoter(env).promote(force=False, by=FERRY)
    twin = Bare.copy(data.path, tmp_path / "twin.git")
    assert twin.git("config", "ferry.id") == data.git("config", "ferry.id")

    fence = _promoter(_at(env, twin)).promote(force=False, by=FERRY)

    assert _is_refused(env, data)
    assert fence_of(data.path).commit == fence
    assert not _is_refused(env, twin)


def test_the_last_promotion_counts_however_often_it_goes_there_and_back(env, there, copy, data):
    volumes = data, copy
    for turn in (0, 0, 1, 0, 1, 1):
        _promoter(_at(env, volumes[turn])).promote(force=False, by=FERRY)
        assert [_is_refused(env, each) for each in volumes] == [turn == 1, turn == 0]


def test_a_primary_that_is_restored_from_before_its_promotion_is_promoted_again(env, there, data, tmp_path):
    """
    Nothing tells it from the old primary's volume. What it had pushed since then is taken over from origin.
    """
    backup = Bare.copy(data.path, tmp_path / "backup.git")
    _promoter(env).promote(force=False, by=FERRY)
    data.commit("since then")
    _push(env)

    assert _is_refused(env, backup)
    _promoter(_at(env, backup)).promote(force=False, by=FERRY)

    assert not _is_refused(env, backup)
    assert backup.has(data.head())
    assert _is_refused(env, data)


def test_a_rewritten_history_fences_no_primary_that_holds_the_promotion(env, there, copy, data, tmp_path):
    """
    The promotions in it have other commits, and the names that they had. One that is new fences all the same.
    """
    _promoter(_at(env, copy)).promote(force=False, by=FERRY)
    anew = Bare.copy(there.path, tmp_path / "anew.git")
    before = there.head()
    _rewrite(there)
    assert not there.has(before)

    assert [_is_refused(env, each) for each in (anew, copy, data)] == [False, False, True]

    fence = there.git("log", "-1", "--format=%B", "main").replace(
        "Ferry-Promotion: ", "Ferry-Promotion: new-"
    )
    made = there.git("commit-tree", "-p", "main", "-m", fence, "main^{tree}")
    there.git("update-ref", "refs/heads/main", made)
    assert [_is_refused(env, each) for each in (anew, copy)] == [True, True]


def test_a_replica_that_followed_past_a_promotion_is_no_primary_by_its_settings(
    env, replica_env, there, copy, data, tmp_path
):
    other = Bare.copy(copy.path, tmp_path / "other.git")
    _promoter(_at(env, other)).promote(force=False, by=FERRY)
    assert build(replica_env, publisher=True).follower.follow() == f"fast-forwarded: {there.head()}"
    assert copy.head() == there.head()

    assert _is_refused(env, copy)
    _promoter(replica_env).promote(force=False, by=FERRY)
    assert not _is_refused(env, copy)


def test_a_replica_made_after_the_last_promotion_is_no_primary_by_its_settings(
    env, ferry, replica_env, there, copy, monkeypatch, capsys
):
    """
    Nothing in its history tells it from the primary's clone.
    """
    monkeypatch.setattr(Following, "start", lambda following: None)
    create_app(replica_env)
    as_primary = {**replica_env, "CFP_API_ROLE": "primary", "CFP_REDIS_URL": env["CFP_REDIS_URL"]}
    api = create_app(as_primary, open_access=True).test_client()
    assert '"event": "primary.fenced"' in capsys.readouterr().err
    assert (_put(api, "jane").status_code, _put(api, "jane").json["code"]) == (403, "not-the-primary")
    assert "it was a replica's since" in ferry("doctor", **as_primary).stdout

    _promoter(replica_env).promote(force=False, by=FERRY)
    create_app(replica_env)  # its process may start again before its settings are changed
    assert _put(api, "jane").status_code == 201


def test_a_client_who_names_a_promotion_lifts_no_fence(client, env, replica_env, there, copy, data):
    _promoter(replica_env).promote(force=False, by=FERRY)
    [line] = [line for line in there.git("log", "-1", "--format=%B").splitlines() if "Promotion:" in line]
    words = {"Commit-Message": f"A change {line}"}
    answer = client().put(f"{PEOPLE}/jane", json={"slug": "jane", "name": "Jane"}, headers=words)
    assert answer.status_code == 201
    assert line in data.git("log", "-1", "--format=%B")
    assert _is_refused(env, data)


def test_a_clients_words_fence_nobody(client, env, there, copy, data):
    elsewhere = build({**env, "CFP_DATA_REPO_PATH": str(copy.path)}, publisher=True)
    answer = client().put(
        f"{PEOPLE}/jane", json={"slug": "jane"}, headers={"Commit-Message": "Ferry-Promotion: me"}
    )
    answer = _put(client(), "jane") if answer.status_code != 201 else answer
    _push(env)

    elsewhere.follower.follow()

    assert copy.head() == data.head()
    assert not is_fenced(copy.path)


def test_what_origin_lacks_is_joined_first(replica_env, there, copy):
    copy.commit("by hand, here")

    with pytest.raises(ReconcileError, match="commits that origin lacks"):
        _promoter(replica_env).promote(force=False, by=FERRY)
    assert there.head() != copy.head()


def test_a_primary_that_answers_is_named_with_what_origin_lacks_and_refused(
    env,
    ferry,
    replica_env,
    there,
    copy,
    tmp_path,
):
    primary = _start(env, tmp_path)
    try:
        url = f"http://127.0.0.1:{primary.port}"
        before = there.head()
        assert primary.put("jane")[0] == 201

        refused = ferry("promote", **replica_env, CFP_API_PRIMARY_URL=url)
        assert refused.returncode == 1
        assert "origin lacks 1 commit that it acknowledged:" in refused.stdout
        assert f"PUT {PEOPLE}/jane" in refused.stdout
        assert "--force" in refused.stderr
        assert there.head() == before

        forced = ferry("promote", "--force", **replica_env, CFP_API_PRIMARY_URL=url)
        assert forced.returncode == 0, forced.stderr
        assert there.head() == copy.head() != before
    finally:
        primary.end()


def test_a_fence_is_lifted_once(tmp_path, data, env):
    pipeline = build(env, publisher=True)
    lift(pipeline.repository)
    lift(pipeline.repository)
    assert fence_of(data.path) is None
    assert promote._asked("http://127.0.0.1:1/api/health") is None


def test_a_write_that_waited_while_the_fence_came_is_refused(
    env, replica_env, there, copy, data, monkeypatch
):
    """
    On top of the fence it would be a fast-forward for origin.
    """
    deployed = build(env, publisher=True)
    lift(deployed.repository)
    real, looks = Store._refuse_fenced, []

    def fence_comes_after_the_first_look(store):
        real(store)
        looks.append(store)
        fence_record(data.path).write_text("{}")

    monkeypatch.setattr(Store, "_refuse_fenced", fence_comes_after_the_first_look)
    before = data.head()
    with (
        pytest.raises(FencedError),
        Store(deployed.repository).commit("late", author=("A", "a@example.org")) as transaction,
    ):
        transaction.put("people", "late", {"slug": "late", "name": "Late"})
    assert looks
    assert data.head() == before


def test_a_fence_that_cannot_be_remembered_is_an_error_that_a_push_reports(
    env, replica_env, there, copy, data, monkeypatch
):
    """
    The branch must not pass it, and the refused push pages and keeps its commits on a rescue branch.
    """
    _promoter(replica_env).promote(force=False, by=FERRY)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ferry.worker.repair.fence.write_json", full)
    data.commit("not pushed yet")
    with pytest.raises(PushRefused):
        _push(env)
    assert not is_fenced(data.path)
    assert data.head() not in there.git("rev-list", "main").split()


@pytest.mark.parametrize("has_landed", [True, False])
def test_a_fence_of_which_git_knows_nothing_certain_is_looked_for(
    replica_env, there, copy, monkeypatch, has_landed
):
    push = Remote.push
    doubtful = Verdict(reason="timeout", rule="timeout", evidence="no answer", ambiguous=True)

    def lose_the_answer(remote, commit, **options):
        pushed = push(remote, commit if has_landed else there.head(), **options)
        return replace(pushed, verdict=doubtful)

    monkeypatch.setattr(Remote, "push", lose_the_answer)
    if has_landed:
        _promoter(replica_env).promote(force=False, by=FERRY)
        assert copy.head() == there.head()
        return
    with pytest.raises(ReconcileError, match="origin did not take the fence: no answer"):
        _promoter(replica_env).promote(force=False, by=FERRY)


def test_a_fence_that_the_branch_cannot_take_is_told(replica_env, there, copy, monkeypatch):
    push = Remote.push

    def write_meanwhile(remote, commit, **options):
        copy.commit("beside the fence")
        return push(remote, commit, **options)

    monkeypatch.setattr(Remote, "push", write_meanwhile)
    with pytest.raises(ReconcileError, match=r"origin has the fence .*, and this branch does not"):
        _promoter(replica_env).promote(force=False, by=FERRY)


def test_functions_after_commits_go_on_where_those_of_the_old_primary_were(
    env, replica_env, ferry, data, copy, there, tmp_path, monkeypatch
):
    """
    With their positions copied as docs/how-to/run-replicas.md has it.
    """
    monkeypatch.chdir(tmp_path)
    text = "import ferry\ntown = ferry.Extension('town')\n@town.after_commit\ndef told(commit):\n"
    Path("town.py").write_text(f"{text}    print(commit.hash, file=open('told', 'a'))\n")
    hook, more = Hook("town", "commit"), {"CFP_API_EXTENSIONS": "town"}
    old = build({**env, **more}, publisher=True).after
    old.serve([hook])
    commits = [data.commit("told by the old primary")]
    old.call(hook)
    commits.append(data.commit("not told by it"))
    _push(env)
    done = ferry("promote", **replica_env, **more)
    assert done.returncode == 0, done.stderr
    assert "copy ferry/remotes/@*.position from its repository before the start" in done.stdout

    for path in data.path.glob("ferry/remotes/@*.position"):
        shutil.copy(path, copy.path / "ferry/remotes")
    new = build(
        {**replica_env, **more, "CFP_API_ROLE": "primary", "CFP_REDIS_URL": env["CFP_REDIS_URL"]}
    ).after
    new.serve([hook])
    new.call(hook)
    assert Path("told").read_text().split() == [*commits, there.head()]


def test_the_push_of_a_promotion_is_noted_so_that_another_process_can_end_it(
    replica_env, there, copy, tmp_path
):
    step, seen = remotes_directory(copy.path) / "origin.lock", tmp_path / "seen.lock"
    there.hook("pre-receive", f"cp '{step}' '{seen}'")
    promoter = _promoter(replica_env)
    promoter.promote(force=False, by=FERRY)
    during, after = steps.last(seen), steps.last(step)
    assert during
    assert during.running
    assert during.running.group > 1
    assert after
    assert after.running is None
