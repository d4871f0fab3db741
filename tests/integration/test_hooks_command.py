"""
``ferry hooks``: what an operator does with the functions that extensions have for commits and pushes.
"""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from ferry.app.cli.hooks import hooks
from ferry.worker.after.hooks import Hook
from ferry.worker.bootstrap import build
from ferry.worker.errors import HookFailed, NonFastForward, RepositoryError
from ferry.worker.push import Request

TOWN = """
import json, os, ferry
town = ferry.Extension("town")

def tell(*told):
    print("told", *told)
    with open("told", "a") as file:
        file.write(json.dumps(told) + "\\n")
    if os.path.exists("fails"):
        raise ValueError("the receiver is away")

@town.after_commit
def committed(commit):
    tell("commit", commit.hash)

@town.after_push
def pushed(landing):
    tell("push", landing.before, landing.after, [commit.hash for commit in landing.commits])

@town.after_divergence
def diverged(divergence):
    tell("divergence", divergence.head)
"""
NOBODY = "f" * 40


@pytest.fixture
def after(data, env, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "town.py").write_text(TOWN)
    for name, value in {**env, "CFP_API_EXTENSIONS": "town"}.items():
        monkeypatch.setenv(name, value)
    pipeline = build({**env, "CFP_API_EXTENSIONS": "town"}, publisher=True)
    pipeline.after.serve([Hook("town", "commit"), Hook("town", "push"), Hook("town", "divergence")])
    return pipeline.after


@pytest.fixture
def told(tmp_path):
    return lambda: [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]


def _run(*arguments):
    done = CliRunner().invoke(hooks, arguments)
    return done.exit_code, done.output


def test_a_commit_and_a_push_are_told_again_and_no_position_moves(after, data, told):
    first = data.head()
    second, third = data.commit("second"), data.commit("third")
    positions = [after.positions.read(hook) for hook in after.hooks]

    assert _run("again", "town", second) == (
        0, f"told commit {second}\nextension town, after_commit: called for {second}\n"
    )  # fmt: skip
    status, said = _run("again", "town", f"{first}..{third}", "--event", "push")
    assert (status, said.splitlines()[-1]) == (
        0, f"extension town, after_push: called for {first}..{third}"
    )  # fmt: skip
    assert _run("again", "town", f"..{first}", "--event", "push")[0] == 0

    assert told() == [
        ["commit", second],
        ["push", first, third, [second, third]],
        ["push", None, first, data.git("rev-list", "--reverse", first).split()],
    ]
    assert [after.positions.read(hook) for hook in after.hooks] == positions


@pytest.mark.parametrize(
    ("event", "what", "said"),
    [
        ("commit", NOBODY, f"'{NOBODY}' is not the full name of a commit in the data repository"),
        ("commit", "HEAD", "'HEAD' is not the full name of a commit"),
        ("commit", "{0}..{0}", "is not one commit; a push is told again with --event push"),
        ("push", "{0}", "as its message has them: BEFORE..AFTER"),
        ("push", f"{NOBODY}..{{0}}", f"'{NOBODY}' is not the full name"),
        ("divergence", "", "a divergence is told again while it lasts, and needs no name; none does"),
    ],
)
def test_what_has_not_happened_is_named_with_the_way_out(after, data, event, what, said):
    with pytest.raises(RepositoryError) as refused:
        after.work.past(event, what.format(data.head()))
    assert said in str(refused.value)


def test_a_command_that_cannot_be_done_says_why_in_one_line(after):
    said = f"'{NOBODY}' is not the full name of a commit in the data repository"
    assert _run("again", "town", NOBODY) == (1, f"ferry: extension town, after_commit: {said}\n")
    status, said = _run("skip", "nobody", "--event", "push")
    assert status == 1
    assert said.startswith("ferry: nobody has no function for the event push; there are: extension town, ")
    status, said = _run("again", "town")
    assert status == 2
    assert "name what to tell again: COMMIT, or BEFORE..AFTER with --event push" in said


def test_a_divergence_is_told_again_while_it_lasts(data, remote, env, after, told):
    data.git("push", "-q", str(remote.path), "main")
    ours, _ = data.commit("ours"), remote.commit("theirs")
    pipeline = build({**env, "CFP_API_EXTENSIONS": "town"}, publisher=True)
    with pytest.raises(NonFastForward):
        pipeline.pusher.push(Request(remote="origin", chain="first"))

    assert _run("again", "town", "--event", "divergence")[0] == 0
    assert told() == [["divergence", ours]]


def test_functions_that_fail_end_the_command_with_what_they_say(after, data, tmp_path):
    (tmp_path / "fails").touch()
    status, said = _run("again", "town", data.head())
    assert status == 1
    assert "ferry: extension town, after_commit: ValueError: the receiver is away" in said
    assert f"told commit {data.head()}" in said


def test_what_waits_is_left_out_once_for_each_command(after, data):
    first, second = data.commit("one"), data.commit("two")
    for name in (first, second):
        status, said = _run("skip", "town")
        assert (status, said.splitlines()[-1]) == (0, f"extension town, after_commit: left out {name}")
    assert _run("skip", "town") == (0, "extension town, after_commit: nothing waits\n")


def test_functions_that_have_stopped_are_resumed(after, data, tmp_path):
    text = (tmp_path / "town.py").read_text().replace("ValueError(", "ferry.Failed(stops=True, detail=")
    (tmp_path / "town.py").write_text(text)
    (tmp_path / "fails").touch()
    data.commit()
    with pytest.raises(HookFailed, match="Failed: the receiver is away"):
        after.call(after.hooks[0])
    assert after.due() == []

    (tmp_path / "fails").unlink()
    assert _run("resume", "town")[1].splitlines()[-1] == "town: resumed"
    assert _run("resume", "town") == (0, "town: nothing had stopped it\n")
    assert after.due() == [after.hooks[0]]


def test_a_module_that_cannot_be_imported_ends_the_command_with_one_line(after, tmp_path):
    (tmp_path / "town.py").write_text("import nowhere")
    status, said = _run("skip", "town")
    assert status == 1
    assert said.startswith("ferry: CFP_API_EXTENSIONS: town: cannot be imported: ModuleNotFoundError")
