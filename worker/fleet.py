"""
Several data repositories behind one worker, one beat and one Flower.

``CFP_DATA_REPOSITORIES`` names a directory with one file for each repository. The file holds the same
variables as the environment of that repository's API. The processes of the worker serve all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from dotenv.parser import parse_stream

from ferry.worker.errors import RepositoryError, SettingsError
from ferry.worker.settings import PREFIX, Settings, absolute_path

VARIABLE = "CFP_DATA_REPOSITORIES"
_ENDING = ".env"
# Variables that name the repository and its remotes. Each file sets its own.
_OF_EACH = f"{PREFIX}DATA_"
_READ = (PREFIX, "SENTRY_", "GIT_SSH_COMMAND")

Environments = Mapping[str, Mapping[str, str]]


def environments(env: Mapping[str, str]) -> Environments:
    """
    Return the environment of each repository that a worker with *env* serves, by name; a single one's is "".

    Raises:
        SettingsError: The directory or one of its files cannot be read, or *env* names a repository itself.
    """
    if not env.get(VARIABLE):
        return {"": env}
    own = [name for name in sorted(env) if name.startswith(_OF_EACH) and name != VARIABLE and env[name]]
    if own:
        raise SettingsError(
            f"{', '.join(own)}: with {VARIABLE} set, set this in each repository's file instead"
        )
    found: dict[str, Mapping[str, str]] = {}
    problems = []
    for file in _files(env[VARIABLE]):
        try:
            found[file.stem] = {**env, **_variables(file)}
        except (OSError, ValueError) as exc:
            problems.append(f"{file.name}: {exc}")
    if problems:
        raise SettingsError("; ".join(problems))
    return found


def settings_of(environments: Environments) -> dict[str, Settings]:
    """
    Check the environments of all the repositories that one process serves; returns their settings by name.

    Raises:
        SettingsError: The message names every fault, with its file.
    """
    found: dict[str, Settings] = {}
    problems: list[str] = []
    for name, env in environments.items():
        try:
            found[name] = Settings.from_env(env)
        except SettingsError as exc:
            problems.append(told_of(name, exc))
    problems += [
        f"{variable}: is one for all that a worker serves, and {name}{_ENDING} has another than the first"
        for name, settings in found.items()
        for variable, field in Settings.common().items()
        if getattr(settings, field) != getattr(next(iter(found.values())), field)
    ]
    problems += _shared_remotes(found)
    if problems:
        raise SettingsError("; ".join(problems))
    return found


def queue_of(identity: str) -> str:
    """
    Return the name of a repository's queue: several repositories share one broker and one Flower.
    """
    return f"push.{identity}"


def queues_of(found: Mapping[str, Settings], identify: Callable[[Settings], str]) -> dict[str, str]:
    """
    Return the name of the repository of each queue.

    Args:
        identify: Returns a repository's identity.

    Raises:
        RepositoryError: A repository cannot be identified, or two names are of the same.
    """
    names: dict[str, str] = {}
    problems = []
    for name, settings in found.items():
        try:
            queue = queue_of(identify(settings))
            if queue in names:
                raise RepositoryError(_same(found[names[queue]], settings, names[queue]))
            names[queue] = name
        except RepositoryError as exc:
            problems.append(told_of(name, exc))
    if problems:
        raise RepositoryError("; ".join(problems))
    return names


def _same(one: Settings, other: Settings, name: str) -> str:
    if one.data_repo_path.samefile(other.data_repo_path):
        return f"is the repository of {name}.env; remove one of the two files"
    return (
        f"{other.data_repo_path} has the ferry.id of {one.data_repo_path}, so one is a copy of the other; "
        "run in the copy, before you start its API again: git config --unset ferry.id"
    )


def told_of(name: str, problem: Exception) -> str:
    """
    Prefix *problem* with the repository's name if there are several.
    """
    return f"{name}{_ENDING}: {problem}" if name else str(problem)


def _files(directory: str) -> list[Path]:
    try:
        path = absolute_path(directory)
        # Hidden files belong to editors.
        files = sorted(file for file in path.iterdir() if file.match(f"[!.]*{_ENDING}"))
    except (OSError, ValueError) as exc:
        raise SettingsError(f"{VARIABLE}: {exc}") from exc
    if not files:
        raise SettingsError(f"{VARIABLE}: there is no file NAME{_ENDING} in {path}")
    return files


def _variables(file: Path) -> dict[str, str]:
    """
    Read ``NAME=value`` lines.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not text, or a line has another form.
    """
    with file.open(encoding="utf-8") as stream:
        lines = list(parse_stream(stream))
    for line in lines:
        if line.error or (line.key and line.value is None):
            # Do not show the line: it may be a secret.
            raise ValueError(f"line {line.original.line} is not NAME=value")
    pairs = {line.key: line.value for line in lines if line.key and line.value is not None}
    if VARIABLE in pairs:
        raise ValueError(f"{VARIABLE} is the worker's own")
    return {name: value for name, value in pairs.items() if name.startswith(_READ)}


def _shared_remotes(found: Mapping[str, Settings]) -> list[str]:
    problems = []
    seen: dict[tuple[str, str], str] = {}
    for name, settings in found.items():
        for remote, url in settings.remotes.items():
            first = seen.setdefault((url, settings.data_branch), name)
            if first != name:
                problems.append(
                    f"{name}{_ENDING}: the remote {remote} is also one of {first}{_ENDING}; "
                    "two repositories cannot push to the same branch"
                )
    return problems
