"""
git does what it was told, whatever configuration, environment and hooks say.
"""

from __future__ import annotations

import os
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from ferry.worker.errors import RepositoryError
from ferry.worker.git.credentials import Credentials
from ferry.worker.git.environment import environment, stay_here
from ferry.worker.git.objects import Objects
from ferry.worker.git.packs import Packs
from ferry.worker.git.prepare import prepare
from ferry.worker.git.remote import Remote
from ferry.worker.git.repository import Repository
from tests.git_http import GitHttpServer
from tests.line import Deployment
from tests.parts import Bare, wait_until

ANA = ("Ana", "ana@town.example")

# What somebody may have configured, for good reasons elsewhere. {elsewhere} is another bare repository.
HOSTILE = [
    '[remote "origin"]\n fetch = +refs/*:refs/*\n fetch = +refs/heads/*:refs/remotes/origin/*',
    '[remote "origin"]\n fetch = +refs/heads/*:refs/heads/*',
    '[remote "origin"]\n fetch = +refs/heads/main:refs/heads/main\n prune = true\n pruneTags = true',
    '[remote "origin"]\n mirror = true',
    '[remote "origin"]\n pushurl = {elsewhere}',
    '[remote "origin"]\n url = {elsewhere}',
    '[remote "origin"]\n push = +refs/heads/*:refs/heads/*\n push = refs/tags/*',
    '[remote "origin"]\n receivepack = false\n uploadpack = false',
    '[remote "origin"]\n vcs = nothing',
    '[remote "origin"]\n skipDefaultUpdate = true\n tagOpt = --tags',
    '[url "{elsewhere}"]\n pushInsteadOf = {remote}',
    '[remote]\n pushDefault = elsewhere\n[branch "main"]\n pushRemote = elsewhere\n remote = elsewhere',
    "[push]\n recurseSubmodules = only",
    "[submodule]\n recurse = true\n[push]\n recurseSubmodules = on-demand",
    "[push]\n followTags = true\n default = matching\n autoSetupRemote = true",
    "[push]\n gpgSign = true",
    "[push]\n pushOption = merge_request.create",
    "[push]\n negotiate = true\n useForceIfIncludes = true",
    "[core]\n hooksPath = {hooks}",
    "[core]\n askPass = {hooks}/ask",
    "[core]\n fsync = none\n fsyncMethod = writeout-only",
    "[core]\n worktree = /tmp\n",
    "[core]\n alternateRefsCommand = false\n useReplaceRefs = true",
    "[fetch]\n prune = true\n pruneTags = true\n recurseSubmodules = true",
    "[fetch]\n writeCommitGraph = true\n output = compact\n parallel = 3",
    "[fetch]\n fsckObjects = true\n negotiationAlgorithm = noop\n[transfer]\n fsckObjects = true",
    "[gc]\n auto = 1\n pruneExpire = now\n[maintenance]\n auto = true\n strategy = incremental",
    "[log]\n showSignature = true\n follow = true\n mailmap = true\n[gpg]\n program = {hooks}/ask",
    "[color]\n ui = always\n push = always\n transport = always\n remote = always",
    "[i18n]\n logOutputEncoding = ISO-8859-1\n[trailer]\n separators = #",
    "[protocol]\n version = 0",
    "[protocol]\n version = 1",
    "[pack]\n packSizeLimit = 1m\n[transfer]\n unpackLimit = 1\n advertiseSID = true",
    "[transfer]\n credentialsInUrl = die\n bundleURI = true",
    '[protocol]\n allow = never\n[protocol "file"]\n allow = never\n[safe]\n bareRepository = explicit',
    "[alias]\n push = !false\n fetch = !false\n[pager]\n push = true\n[include]\n path = /nonexistent",
]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Bare:
    return Bare.init(tmp_path / "elsewhere.git")


@pytest.fixture
def text(tmp_path: Path, elsewhere: Bare, data: Bare, remote: Bare) -> Callable[[str], str]:
    """
    Fill in a piece of configuration; its hooks and programs refuse, and note that they were run.
    """
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    script = f"echo $0 >> {tmp_path}/ran; exit 1"
    for name in ("pre-push", "ask"):
        (hooks / name).write_text(f"#!/bin/sh\n{script}\n")
        (hooks / name).chmod(0o755)
    for name in ("pre-push", "reference-transaction", "pre-auto-gc"):
        data.hook(name, script)
    return lambda piece: piece.format(elsewhere=elsewhere.path, remote=remote.path, hooks=hooks)


def _git(path: Path, *arguments: str) -> str:
    """
    Run git as nobody has configured it.
    """
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "--git-dir", str(path), "-c", "core.hooksPath=/dev/null", "-c", "color.ui=false"]
    done = subprocess.run([*command, *arguments], env=env, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _point(git_dir: Path, ref: str, name: str) -> None:
    (git_dir / ref).parent.mkdir(parents=True, exist_ok=True)
    (git_dir / ref).write_text(f"{name}\n")


def _prove(repository: Repository, data: Path, remote: Path, elsewhere: Path, ran: Path) -> None:
    """
    Push, ask and fetch while the branch is ahead already, and see that each did that and nothing more.
    """
    objects, message = repository.objects, "é\n\nSheet: people"
    tip, tree = repository.head() or "", _git(data, "rev-parse", "main^{tree}")

    def write(where: Objects, parent: str, message: str) -> str:
        return where.write_commit(tree, (parent,), message, author=ANA, seconds=1_790_000_000)

    ours = write(objects, tip, message)
    ahead = write(objects, ours, "ahead")
    _point(data, "refs/heads/main", ahead)
    tag = f"object {ours}\ntype commit\ntag v1\ntagger Ana <ana@town.example> 1790000000 +0000\n\n"
    annotated = objects.write("tag", f"{tag}annotated, as followTags wants it\n".encode())
    _point(data, "refs/tags/v1", annotated)

    pushed = Remote(repository, "origin", timeout_s=20).push(ours)

    assert pushed.exit_status == 0, pushed
    assert pushed.verdict.landed
    assert _git(remote, "for-each-ref", "--format=%(refname) %(objectname)") == f"refs/heads/main {ours}"
    assert repository.head() == ahead, "pushing moves no branch of ours"
    assert repository.remote_head("origin") == ours == Remote(repository, "origin", timeout_s=20).ask()
    [commit] = repository.log(ours, limit=1)
    assert (commit.hash, commit.message, commit.trailers) == (ours, message, {"Sheet": "people"})

    theirs = write(Objects(remote), ours, "theirs")
    _point(remote, "refs/heads/main", theirs)
    stay_here(os.environ)  # as each process does at its start: a fetch leaves a pack, which gitsheets reads
    assert Remote(repository, "origin", timeout_s=20).fetch() == theirs == repository.remote_head("origin")
    known = {"refs/heads/main": ahead, "refs/remotes/origin/main": theirs, "refs/tags/v1": annotated}
    listed = _git(data, "for-each-ref", "--format=%(refname) %(objectname)").split()
    assert dict(zip(listed[::2], listed[1::2], strict=True)) == known
    assert not [path for path in (*elsewhere.glob("refs/**/*"), elsewhere / "packed-refs") if path.is_file()]
    assert not ran.exists()
    assert not (data / "FETCH_HEAD").exists()


@pytest.mark.parametrize("piece", HOSTILE, ids=lambda piece: "-".join(piece.split()[:4])[:40])
def test_no_key_of_the_repositorys_configuration_changes_what_a_push_does(
    deployment: Deployment, data: Bare, remote: Bare, elsewhere: Bare, tmp_path: Path, text, piece: str
):
    with (data.path / "config").open("a") as config:
        config.write(f"{text(piece)}\n")

    _prove(deployment.repository, data.path, remote.path, elsewhere.path, tmp_path / "ran")


def _everything(text: Callable[[str], str]) -> str:
    # A worktree of the user's configuration is none of this repository's; git itself refuses it there.
    return "\n".join(text(piece) for piece in HOSTILE if "worktree" not in piece) + "\n"


@pytest.mark.parametrize(
    "scope", ["user", "xdg", "system", "included", "worktree", "environment", "parameters"]
)
def test_no_scope_of_configuration_changes_what_a_push_does(
    deployment: Deployment, data: Bare, remote: Bare, elsewhere: Bare,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text, scope: str,
):  # fmt: skip
    everything = tmp_path / "everything"
    everything.write_text(_everything(text))
    home = tmp_path / "home"
    (home / "git").mkdir(parents=True)
    if scope == "user":
        (home / ".gitconfig").write_text(_everything(text))
        monkeypatch.setenv("HOME", str(home))
    elif scope == "xdg":
        (home / "git" / "config").write_text(_everything(text))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    elif scope == "system":
        monkeypatch.setenv("GIT_CONFIG_SYSTEM", str(everything))
    elif scope == "included":
        data.git("config", f"includeIf.gitdir:{data.path}.path", str(everything))
    elif scope == "worktree":
        data.git("config", "extensions.worktreeConfig", "true")
        (data.path / "config.worktree").write_text(_everything(text))
    elif scope == "environment":
        monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
        monkeypatch.setenv("GIT_CONFIG_KEY_0", "include.path")
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(everything))
    else:
        monkeypatch.setenv(
            "GIT_CONFIG_PARAMETERS", f"'include.path'='{everything}' 'core.hooksPath=/nowhere'"
        )

    _prove(deployment.repository, data.path, remote.path, elsewhere.path, tmp_path / "ran")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GIT_DIR", "{elsewhere}"),
        ("GIT_COMMON_DIR", "{elsewhere}"),
        ("GIT_OBJECT_DIRECTORY", "{elsewhere}/objects"),
        ("GIT_ALTERNATE_OBJECT_DIRECTORIES", "{elsewhere}/objects"),
        ("GIT_QUARANTINE_PATH", "{elsewhere}/objects"),
        ("GIT_NAMESPACE", "town"),
        ("GIT_WORK_TREE", "/tmp"),
        ("GIT_INDEX_FILE", "/nonexistent"),
        ("GIT_CONFIG", "/nonexistent"),
        ("GIT_LITERAL_PATHSPECS", "1"),
        ("GIT_ICASE_PATHSPECS", "1"),
        ("GIT_REPLACE_REF_BASE", "refs/heads/"),
        ("GIT_GRAFT_FILE", "/nonexistent"),
        ("GIT_SHALLOW_FILE", "/dev/null"),
        ("GIT_PROTOCOL", "version=0"),
        ("GIT_DEFAULT_HASH", "sha256"),
        ("GIT_ALLOW_PROTOCOL", "nothing"),
        ("GIT_ASKPASS", "{hooks}/ask"),
        ("SSH_ASKPASS", "{hooks}/ask"),
        ("GIT_TERMINAL_PROMPT", "1"),
        ("GIT_PAGER", "false"),
        ("GIT_CONFIG_COUNT", "many"),
        ("GIT_CONFIG_COUNT", "3"),
        ("GIT_CONFIG_PARAMETERS", "no such thing"),
        ("LC_ALL", "de_DE.UTF-8"),
    ],
)
def test_no_variable_changes_what_a_push_does(
    deployment: Deployment, data: Bare, remote: Bare, elsewhere: Bare,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text, name: str, value: str,
):  # fmt: skip
    monkeypatch.setenv(name, text(value))

    _prove(deployment.repository, data.path, remote.path, elsewhere.path, tmp_path / "ran")


def test_replaced_and_grafted_commits_are_pushed_as_they_are(
    deployment: Deployment, data: Bare, remote: Bare
):
    orphan = data.git("commit-tree", "-m", "another beginning", "main^{tree}")
    tip = data.head() or ""
    data.git("replace", tip, orphan)
    (data.path / "info").mkdir(exist_ok=True)
    (data.path / "info" / "grafts").write_text(f"{tip}\n")

    assert Remote(deployment.repository, "origin", timeout_s=20).push(tip).verdict.landed

    (data.path / "info" / "grafts").unlink()
    count = _git(data.path, "--no-replace-objects", "rev-list", "--count", tip)
    assert _git(remote.path, "rev-list", "--count", "main") == count
    assert _git(remote.path, "for-each-ref", "--format=%(refname)") == "refs/heads/main"


def test_a_tracking_ref_that_is_another_name_of_the_branch_does_not_move_it(
    deployment: Deployment, data: Bare, remote: Bare
):
    """
    git follows a symbolic ref: a push, a fetch or a removal would be one of the branch.
    """
    repository, tip = deployment.repository, data.head() or ""
    Remote(repository, "origin", timeout_s=20).push(tip)
    theirs, ours = remote.commit("theirs"), data.commit("ours")
    for ref in ("refs/remotes/origin/main", "refs/ferry/fetched/origin"):
        data.git("symbolic-ref", ref, "refs/heads/main")

    assert repository.remote_head("origin") is None
    assert Remote(repository, "origin", timeout_s=20).fetch() == theirs == repository.remote_head("origin")
    assert repository.head() == ours

    data.git("symbolic-ref", "refs/remotes/origin/main", "refs/heads/main")
    repository.forget("origin")
    assert repository.head() == ours
    assert repository.remote_head("origin") is None


# --- Exit status 0 ---


@pytest.mark.parametrize(
    "printed", ["Done", "", "To x\\n*\\trefs/heads/other:refs/heads/other\\t[new branch]\\nDone"]
)
def test_a_push_that_names_another_ref_or_none_is_not_believed(
    deployment: Deployment, data: Bare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, printed: str
):
    head = data.head() or ""
    (tmp_path / "bin").mkdir()
    git = tmp_path / "bin" / "git"
    git.write_text(f"#!/bin/sh\nprintf '{printed}\\n'\n")
    git.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path / "bin"), prepend=":")
        pushed = Remote(deployment.repository, "origin", timeout_s=20).push(head)

    assert pushed.exit_status == 0
    assert (pushed.verdict.landed, pushed.verdict.ambiguous) == (False, True)
    assert deployment.repository.remote_head("origin") is None


# --- What the operator rightly decides ---


def _repository(deployed: Deployment, **environ: str) -> Repository:
    credentials = Credentials.from_settings(deployed.settings, {**os.environ, **environ})
    return Repository(deployed.settings.data_repo_path, branch="main", credentials=credentials)


def test_a_short_name_for_a_host_is_understood_both_ways(deploy, data: Bare, remote: Bare):
    data.git("config", f"url.{remote.path.parent}/.insteadOf", "town:")
    deployed: Deployment = deploy(CFP_DATA_REMOTE="town:remote.git")

    assert Remote(_repository(deployed), "origin", timeout_s=20).push(data.head() or "").verdict.landed
    assert remote.head() == data.head() == Remote(_repository(deployed), "origin", timeout_s=20).ask()


def test_an_extra_header_of_the_configuration_is_sent(deploy, data: Bare, http_remote: GitHttpServer):
    http_remote.password = "t0ken"
    header = "Authorization: Basic YW5hOnQwa2Vu"  # ana:t0ken
    repository = _repository(deploy(CFP_DATA_REMOTE=http_remote.url("web.git")))
    assert not Remote(repository, "origin", timeout_s=20).push(data.head() or "").verdict.landed

    data.git("config", f"http.{http_remote.url('')}.extraHeader", header)

    assert Remote(repository, "origin", timeout_s=20).push(data.head() or "").verdict.landed


@pytest.mark.parametrize("scope", ["repository", "environment"])
def test_a_credential_helper_of_the_configuration_is_asked(
    deploy, data: Bare, http_remote: GitHttpServer, scope: str
):
    """
    With variables of its own: what a helper reads is its own affair.
    """
    http_remote.password = "t0ken"
    key, helper = "credential.helper", '!f() { echo username=ana; echo "password=$TOWN_PASSWORD"; }; f'
    environ = {"TOWN_PASSWORD": "t0ken"}
    if scope == "repository":
        data.git("config", key, helper)
    else:
        environ |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": key, "GIT_CONFIG_VALUE_0": helper}
    repository = _repository(deploy(CFP_DATA_REMOTE=http_remote.url("web.git")), **environ)

    assert Remote(repository, "origin", timeout_s=20).push(data.head() or "").verdict.landed


@pytest.mark.parametrize("key", ["http.proxy", "remote.origin.proxy", "http_proxy", "GIT_CONFIG_COUNT"])
def test_a_proxy_is_used(deploy, data: Bare, http_remote: GitHttpServer, key: str):
    """
    The host's name is known to the proxy alone.
    """
    proxy, environ = http_remote.url("").rstrip("/"), {}
    if key == "http_proxy":
        environ = {key: proxy}
    elif key == "GIT_CONFIG_COUNT":
        environ = {key: "1", "GIT_CONFIG_KEY_0": "remote.origin.proxy", "GIT_CONFIG_VALUE_0": proxy}
    else:
        data.git("config", key, proxy)
    repository = _repository(deploy(CFP_DATA_REMOTE="http://git.town.invalid/web.git"), **environ)

    pushed = Remote(repository, "origin", timeout_s=20).push(data.head() or "")

    assert "Could not resolve host" not in pushed.stderr
    assert (
        "git.town.invalid" not in pushed.stderr
        or "returned error" in pushed.stderr
        or pushed.exit_status == 0
    )


@pytest.mark.parametrize("way", ["core.sshCommand", "GIT_SSH", "GIT_SSH_COMMAND"])
def test_the_ssh_that_somebody_chose_is_used(deploy, data: Bare, remote: Bare, tmp_path: Path, way: str):
    ssh = tmp_path / "their-ssh"
    ssh.write_text('#!/bin/sh\nwhile [ "$1" != git@town.invalid ]; do shift; done\nshift\nexec sh -c "$*"\n')
    ssh.chmod(0o755)
    environ = {}
    if way == "core.sshCommand":
        data.git("config", way, str(ssh))
    else:
        environ = {way: str(ssh)}
    repository = _repository(deploy(CFP_DATA_REMOTE=f"ssh://git@town.invalid{remote.path}"), **environ)

    assert Remote(repository, "origin", timeout_s=20).push(data.head() or "").verdict.landed
    assert Remote(repository, "origin", timeout_s=20).fetch() == data.head() == remote.head()


# --- What children see ---


def test_no_secret_of_ferrys_reaches_a_hook(deploy, data: Bare, remote: Bare, tmp_path: Path):
    secrets = {
        "CFP_ADMIN_TOKEN": "s3cr3t-1",
        "CFP_REDIS_URL": "redis://:s3cr3t-2@redis.invalid",
        "SENTRY_DSN": "https://s3cr3t-3@sentry.invalid/1",
        "CFP_DATA_MIRRORS": "b=https://ana:s3cr3t-4@git.invalid/x",
        "CELERY_BROKER_URL": "redis://:s3cr3t-5@redis.invalid",
        "FLOWER_BASIC_AUTH": "ana:s3cr3t-6",
        "OTEL_EXPORTER_OTLP_HEADERS": "key=s3cr3t-7",
    }
    remote.hook("pre-receive", f"env > {tmp_path}/seen")
    repository = _repository(deploy(), **secrets, TOWN="ours")

    assert Remote(repository, "origin", timeout_s=20).push(data.head() or "").verdict.landed

    seen = (tmp_path / "seen").read_text()
    assert "s3cr3t" not in seen
    assert "TOWN=ours" in seen
    assert f"HOME={os.environ['HOME']}" in seen


def test_what_names_another_repository_is_removed_from_our_own_environment():
    environ = {"GIT_DIR": "/x", "GIT_NAMESPACE": "x", "GIT_SSH": "ssh", "GIT_AUTHOR_NAME": "Ana", "HOME": "/"}
    assert stay_here(environ) == ["GIT_DIR", "GIT_NAMESPACE"]
    assert environ == {"GIT_SSH": "ssh", "GIT_AUTHOR_NAME": "Ana", "HOME": "/"}


@pytest.mark.parametrize("count", ["many", "3", "-1", "٢", ""])
def test_configuration_that_git_would_refuse_is_cut_to_what_is_whole(count):
    """
    gitsheets opens no repository with it, and git runs no command.
    """
    pair = {"GIT_CONFIG_KEY_0": "http.proxy", "GIT_CONFIG_VALUE_0": "http://proxy"}
    environ = {"GIT_CONFIG_COUNT": count, **pair}
    assert stay_here(environ) == ["GIT_CONFIG_COUNT"]
    assert environ == {"GIT_CONFIG_COUNT": "1" if count == "3" else "0", **pair}


def test_every_variable_that_names_a_repository_is_known_here():
    names = subprocess.run(
        ["git", "rev-parse", "--local-env-vars"], capture_output=True, text=True, check=True
    )
    environ = dict.fromkeys(names.stdout.split(), "x")
    kept = environment(Path("/data.git"), environ)
    assert {name: value for name, value in kept.items() if value == "x"} == {}
    assert kept["GIT_DIR"] == "/data.git"
    assert set(stay_here(environ)) | {"GIT_CONFIG_COUNT"} == set(names.stdout.split())


# --- What a hook prints ---


def test_a_hook_that_prints_without_end_costs_no_memory_and_holds_nobody(
    deployment: Deployment, data: Bare, remote: Bare
):
    line = 10 * "a line of many "  # git takes its time for each
    remote.hook("pre-receive", f"echo first; yes '{line}' | head -c 12000000; echo; echo last; exit 1")
    tracemalloc.start()
    try:
        pushed = Remote(deployment.repository, "origin", timeout_s=60).push(data.head() or "")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 10_000_000
    assert pushed.exit_status == 1
    assert "remote: first" in pushed.stderr
    assert "remote: last" in pushed.stderr
    assert "[...]" in pushed.stderr
    assert len(pushed.stderr) < 600_000
    assert pushed.verdict.reason == "rejected"


def test_a_hook_that_prints_for_ever_is_ended_at_the_timeout(
    deployment: Deployment, data: Bare, remote: Bare
):
    remote.hook("pre-receive", "yes 'a line'")

    pushed = Remote(deployment.repository, "origin", timeout_s=1).push(data.head() or "")

    assert pushed.exit_status is None
    assert pushed.duration_s < 15


# --- git that does not start ---


@pytest.mark.parametrize("problem", [OSError(12, "Cannot allocate memory"), OSError(11, "try again")])
def test_a_git_that_cannot_be_started_is_an_error_of_ours(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, problem: OSError
):
    def fail(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr("ferry.worker.process.running.subprocess.Popen", fail)
    repository = deployment.repository
    for ask in (
        lambda: Remote(repository, "origin", timeout_s=1).push(repository.head() or ""),
        lambda: Remote(repository, "origin", timeout_s=1).ask(),
        lambda: Remote(repository, "origin", timeout_s=1).fetch(),
        lambda: Packs(repository.git).size(),
    ):
        with pytest.raises(RepositoryError, match="git cannot be started"):
            ask()


# --- What is remembered of a remote ---


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 41, b"\n", b"ref: refs/heads/main\n", b"f" * 40 + b"\n", b"x"]
)
def test_a_tracking_ref_that_cannot_be_read_is_not_known_and_is_written_anew(
    deployment: Deployment, data: Bare, content: bytes
):
    repository, tip = deployment.repository, data.head() or ""
    path = data.path / "refs" / "remotes" / "origin" / "main"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)

    assert repository.remote_head("origin") is None
    assert not repository.is_pushed("origin")
    assert Remote(repository, "origin", timeout_s=20).push(tip).verdict.landed
    assert repository.remote_head("origin") == tip == data.git("rev-parse", "refs/remotes/origin/main")
    assert repository.head() == tip

    path.write_bytes(content)
    assert Remote(repository, "origin", timeout_s=20).fetch() == tip == repository.remote_head("origin")


@pytest.mark.parametrize("ref", ["refs/heads/other", "refs/tags/v1", "refs/remotes/upstream/main"])
@pytest.mark.parametrize("content", ["", "\0" * 41, "1" * 40 + "\n"], ids=["empty", "NUL", "missing"])
def test_a_damaged_ref_of_somebody_else_keeps_nothing_from_going_on(
    deployment: Deployment, data: Bare, ref: str, content: str
):
    repository, tip = deployment.repository, data.head() or ""
    (data.path / ref).parent.mkdir(parents=True, exist_ok=True)
    (data.path / ref).write_text(content)

    assert Remote(repository, "origin", timeout_s=20).push(tip).verdict.landed
    assert Remote(repository, "origin", timeout_s=20).fetch() == tip
    Packs(repository.git).write_commit_graph(timeout_s=20)


def test_packs_are_merged_where_somebody_wants_a_bitmap_of_them(
    deployment: Deployment, data: Bare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / ".gitconfig").write_text("[pack]\n writeBitmaps = true\n[repack]\n writeBitmaps = true\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for _ in range(3):
        data.commit()
        Packs(deployment.repository.git).pack_loose_objects(timeout_s=20)
        Packs(deployment.repository.git).prune_packed()
    packs = Packs(deployment.repository.git).count()

    Packs(deployment.repository.git).merge(timeout_s=20)

    assert Packs(deployment.repository.git).count() < packs


def test_a_users_configuration_that_is_none_ends_the_start_with_its_file_and_line(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / ".gitconfig").write_text("[broken\n")
    monkeypatch.setenv("HOME", str(tmp_path))

    with pytest.raises(RepositoryError, match=r"\.gitconfig"):
        prepare(deployment.settings)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("old", "new"), [("data", "data/live"), ("data/live/x", "data"), ("a/b", "a/b/c")])
def test_the_tracking_ref_of_another_branch_gets_out_of_the_way(
    data: Bare, deploy, remote: Bare, old: str, new: str, packed: bool
):
    tip = data.head() or ""
    data.git("branch", old, "main")
    first: Deployment = deploy(CFP_DATA_BRANCH=old)
    assert Remote(first.repository, "origin", timeout_s=20).push(tip).verdict.landed
    data.git("branch", "-m", old, "saved")
    data.git("branch", "-m", "saved", new)
    remote.git("update-ref", "-d", f"refs/heads/{old}")
    if packed:
        data.git("pack-refs", "--all")

    repository = deploy(CFP_DATA_BRANCH=new).repository

    assert repository.remote_head("origin") is None
    assert Remote(repository, "origin", timeout_s=20).push(tip).verdict.landed
    assert repository.remote_head("origin") == tip
    names = data.git("for-each-ref", "--format=%(refname)", "refs/remotes").split()
    assert names == [f"refs/remotes/origin/{new}"]
    data.git("fetch", "--quiet", "--prune", "origin")


def test_a_directory_that_is_empty_is_no_tracking_ref(deployment: Deployment, data: Bare):
    (data.path / "refs/remotes/origin/main/x").mkdir(parents=True)
    assert Remote(deployment.repository, "origin", timeout_s=20).push(data.head() or "").verdict.landed
    assert deployment.repository.remote_head("origin") == data.head()


def test_a_lock_that_a_dead_git_left_on_what_is_remembered_is_broken(deployment: Deployment, data: Bare):
    (data.path / "refs/remotes/origin").mkdir(parents=True)
    (data.path / "refs/remotes/origin/main.lock").touch()

    assert Remote(deployment.repository, "origin", timeout_s=20).push(data.head() or "").verdict.landed

    assert deployment.repository.remote_head("origin") == data.head()
    assert not (data.path / "refs/remotes/origin/main.lock").exists()


def test_a_push_to_an_address_that_was_given_up_leaves_nothing_behind(
    deploy, data: Bare, remote: Bare, tmp_path: Path
):
    """
    CFP_DATA_REMOTE was changed while it ran; what it brought is nowhere but at the old address.
    """
    new = Bare.init(tmp_path / "new.git")
    before: Deployment = deploy()
    repository, tip = _repository(before), data.head() or ""

    def move(group: int) -> None:
        deploy(CFP_DATA_REMOTE=str(new.path))

    assert repository.is_current("origin")
    Remote(repository, "origin", timeout_s=20).push(tip, started=move)

    assert remote.head() == tip
    assert not repository.is_current("origin")
    after = _repository(deploy(CFP_DATA_REMOTE=str(new.path)))
    assert after.is_current("origin")
    assert after.remote_head("origin") is None
    assert not after.is_pushed("origin")
    assert Remote(after, "origin", timeout_s=20).push(tip).verdict.landed
    assert after.is_pushed("origin")


def test_a_token_that_was_renewed_is_no_new_address(deploy, data: Bare):
    deployed: Deployment = deploy(CFP_DATA_REMOTE="https://ana:old@git.town.example/data.git")
    deployed.repository.saw_on_remote("origin", data.head() or "")

    deploy(CFP_DATA_REMOTE="https://ana:new@git.town.example/data.git")
    assert deployed.repository.remote_head("origin") == data.head()

    deploy(CFP_DATA_REMOTE="https://ana:new@git.town.example/else.git")
    assert deployed.repository.remote_head("origin") is None


def test_the_configuration_stays_what_people_look_at(deployment: Deployment, data: Bare, remote: Bare):
    Remote(deployment.repository, "origin", timeout_s=20).push(data.head() or "")

    assert data.git("remote", "-v").split()[1] == str(remote.path)
    data.git("fetch", "--quiet", "origin")
    assert data.git("rev-parse", "origin/main") == data.head()
    assert prepare(deployment.settings)
    assert data.git("remote") == "origin"
    wait_until(lambda: not list((data.path / "ferry" / "drafts").rglob("*~")))
