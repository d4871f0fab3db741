"""
What a directory of environments may say, for a worker that serves several repositories.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ferry.worker.bootstrap import build_all
from ferry.worker.broker.celery_app import build_celery
from ferry.worker.errors import RepositoryError, SettingsError
from ferry.worker.fleet import environments, settings_of
from ferry.worker.settings import Settings
from tests.parts import Bare

SECRET = "hunter2"
REDIS = {"CFP_REDIS_URL": "redis://localhost"}


@pytest.fixture
def given(tmp_path: Path):
    """
    Write the environment of a repository, and return that of the worker.
    """
    directory = tmp_path / "repositories"
    directory.mkdir()

    def write(**files: str) -> dict[str, str]:
        for name, text in files.items():
            (directory / f"{name}.env").write_text(text)
        return {**REDIS, "CFP_DATA_REPOSITORIES": str(directory)}

    return write


def _settings(env: dict[str, str]) -> dict[str, Settings]:
    return settings_of(environments(env))


def _problem(env: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as refused:
        _settings(env)
    assert SECRET not in str(refused.value)
    return str(refused.value)


def test_without_a_directory_the_environment_is_that_of_the_only_repository():
    env = {**REDIS, "CFP_DATA_REPO_PATH": "/srv/data.git"}
    assert environments(env) == {"": env}


def test_each_file_is_a_repository_with_what_the_worker_has_in_common(given):
    env = given(
        town="# The town's.\nCFP_DATA_REPO_PATH=/srv/town.git\nexport CFP_DATA_BRANCH='live'\n\n",
        village='CFP_DATA_REPO_PATH="/srv/village.git"\nCFP_PUSH_TIMEOUT=30\n',
        notes="CFP_DATA_REPO_PATH=/srv/$HOME.git\n",
    )
    found = _settings({**env, "CFP_PUSH_TIMEOUT": "60"})

    assert list(found) == ["notes", "town", "village"]
    assert {name: str(each.data_repo_path) for name, each in found.items()} == {
        "notes": "/srv/$HOME.git",
        "town": "/srv/town.git",
        "village": "/srv/village.git",
    }
    assert (found["town"].data_branch, found["town"].push_timeout_s) == ("live", 60)
    assert (found["village"].data_branch, found["village"].push_timeout_s) == ("main", 30)


def test_everything_that_is_wrong_is_said_with_its_file(given):
    problem = _problem(
        given(
            good="CFP_DATA_REPO_PATH=/srv/good.git",
            town="CFP_DATA_REPO_PATH=town.git\nCFP_DATA_BRANHC=x",
            village="CFP_PUSH_TIMEOUT=0",
        )
    )
    assert "town.env: CFP_DATA_REPO_PATH: must be an absolute path" in problem
    assert "did you mean CFP_DATA_BRANCH?" in problem
    assert "village.env: CFP_PUSH_TIMEOUT" in problem
    assert "good.env" not in problem


def test_what_a_process_has_once_is_the_same_for_all(given):
    problem = _problem(
        given(
            a="CFP_DATA_REPO_PATH=/srv/a.git",
            b=f"CFP_DATA_REPO_PATH=/srv/b.git\nCFP_REDIS_URL=redis://:{SECRET}@elsewhere",
            c=f"CFP_DATA_REPO_PATH=/srv/c.git\nSENTRY_DSN=https://{SECRET}@sentry.invalid/1",
        )
    )
    assert "CFP_REDIS_URL: is one for all that a worker serves, and b.env has another" in problem
    assert "SENTRY_DSN: is one for all that a worker serves, and c.env has another" in problem


@pytest.mark.parametrize("line", [f"{SECRET}", f"CFP_ADMIN_TOKEN='{SECRET}"])
def test_a_line_that_is_no_assignment_is_named_and_not_repeated(given, line):
    problem = _problem(given(town=f"CFP_DATA_REPO_PATH=/srv/town.git\n{line}\n"))
    assert problem == "town.env: line 2 is not NAME=value"


def test_a_directory_without_files_or_with_one_that_cannot_be_read_is_said(given):
    env = given()
    directory = Path(env["CFP_DATA_REPOSITORIES"])
    (directory / ".town.env").write_text("an editor's")
    assert "there is no file NAME.env in " in _problem(env)
    (directory / "town.env").write_bytes(b"\xff")
    assert "town.env: 'utf-8' codec can't decode" in _problem(env)
    for wrong, words in (
        (directory / "none", "No such file"),
        (directory / "town.env", "Not a directory"),
        ("repositories", "must be an absolute path"),
        ("~nobody-of-that-name/x", "must be an absolute path"),
    ):
        assert words in _problem({**env, "CFP_DATA_REPOSITORIES": str(wrong)})


def test_what_says_where_commits_go_is_no_other_repositorys_by_oversight(given):
    """
    A remote left over in the worker's environment would get the histories of all of them.
    """
    env = given(
        a="CFP_DATA_REPO_PATH=/srv/a.git\nCFP_DATA_REMOTE=git@host:a\n",
        b=f"CFP_DATA_REPO_PATH=/srv/b.git\nCFP_DATA_MIRRORS='x=https://{SECRET}@host/x'\n",
        c=f"CFP_DATA_REPO_PATH=/srv/c.git\nCFP_DATA_REMOTE=https://{SECRET}@host/x\n",
        d=f"CFP_DATA_REPO_PATH=/srv/d.git\nCFP_DATA_REMOTE=https://{SECRET}@host/x\nCFP_DATA_BRANCH=d\n",
    )
    assert _problem(env) == (
        "c.env: the remote origin is also one of b.env; two repositories cannot push to the same branch"
    )
    assert _problem({**env, "CFP_DATA_REMOTE": SECRET}).startswith("CFP_DATA_REMOTE: with CFP_DATA_REPOS")
    assert "the worker's own" in _problem(given(c="CFP_DATA_REPOSITORIES=/x"))


def test_what_is_not_ferrys_own_is_not_read(given):
    env = given(town="CFP_DATA_REPO_PATH=/srv/town.git\nGIT_CONFIG_COUNT=1\nGIT_SSH_COMMAND='ssh -4'\n")
    town = environments(env)["town"]
    assert town["GIT_SSH_COMMAND"] == "ssh -4"
    assert "GIT_CONFIG_COUNT" not in town


def test_a_command_about_one_repository_says_how_to_name_it(given):
    with pytest.raises(
        SettingsError, match=r"CFP_DATA_REPO_PATH: required; for one of several: \(set -a; \. "
    ):
        Settings.from_env(given())


def test_each_repository_that_cannot_be_used_is_named(given):
    env = given(a="CFP_DATA_REPO_PATH=/nowhere/a.git", b="CFP_DATA_REPO_PATH=/nowhere/b.git")
    with pytest.raises(RepositoryError, match=r"a\.env: .*/nowhere/a.git.*b\.env: .*/nowhere/b.git"):
        build_all(environments(env))


def test_a_repository_is_served_once(given, tmp_path: Path):
    one = Bare.init(tmp_path / "one.git")
    (tmp_path / "link").symlink_to(one.path)
    env = given(one=f"CFP_DATA_REPO_PATH={one.path}", two=f"CFP_DATA_REPO_PATH={tmp_path}/link")

    with pytest.raises(RepositoryError, match=r"two\.env: is the repository of one\.env; remove one"):
        build_all(environments(env))


def test_a_repository_and_its_copy_are_not_served_side_by_side(given, tmp_path: Path):
    """
    Both have the identity that names their queue, so that the pushes of one could go to the other.
    """
    one = Bare.init(tmp_path / "one.git")
    build_all({"one": {**REDIS, "CFP_DATA_REPO_PATH": str(one.path)}})
    copy = Bare.copy(one.path, tmp_path / "copy.git")
    env = given(one=f"CFP_DATA_REPO_PATH={one.path}", two=f"CFP_DATA_REPO_PATH={copy.path}")

    with pytest.raises(
        RepositoryError, match=r"two\.env: .*one is a copy of the other; run in the copy.*--unset ferry\.id"
    ):
        build_all(environments(env))

    copy.git("config", "--unset", "ferry.id")
    assert len({pipeline.queue for pipeline in build_all(environments(env))}) == 2


@pytest.mark.parametrize(
    ("remotes", "slots"), [([0], 2), ([1], 3), ([30], 32), ([1, 1, 1], 5), ([1] * 100, 16), ([30, 1], 32)]
)
def test_a_worker_has_a_slot_for_each_remote_and_many_repositories_share_sixteen(remotes, slots):
    served = {}
    for number, count in enumerate(remotes):
        mirrors = " ".join(f"m{n}=/srv/m{n}.git" for n in range(count))
        env = {**REDIS, "CFP_DATA_REPO_PATH": "/srv/data.git", "CFP_DATA_MIRRORS": mirrors}
        served[f"push.{number}"] = Settings.from_env(env)

    assert build_celery(served, publisher=False).conf.worker_concurrency == slots


def test_sweeps_are_spread_over_their_interval():
    settings = Settings.from_env({**REDIS, "CFP_DATA_REPO_PATH": "/srv/data.git"})
    schedule = build_celery({f"push.{n}": settings for n in range(3)}, publisher=False).conf.beat_schedule

    first, *_, last = (entry["last_run_at"] for entry in schedule.values())
    assert (last - first).total_seconds() == pytest.approx(10)
    assert [entry["options"]["queue"] for entry in schedule.values()] == ["push.0", "push.1", "push.2"]
