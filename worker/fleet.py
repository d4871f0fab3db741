"""
Several data repositories behind one worker, one beat and one Flower.

``CFP_DATA_REPOSITORIES`` names a directory with a file of variables for each, as
its API has them. A worker, with its processes for pushes that may hang, takes as
much memory for one repository as for a hundred.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dotenv.parser import parse_stream

from worker.errors import SettingsError
from worker.settings import Settings

VARIABLE = "CFP_DATA_REPOSITORIES"
_ENDING = ".env"
# What a process has once, whomever it serves.
_COMMON = {
    "CFP_REDIS_URL": "redis_url",
    "CFP_BROKER_URL": "broker_url",
    "SENTRY_DSN": "sentry_dsn",
    "SENTRY_ENVIRONMENT": "sentry_environment",
    "SENTRY_TRACES_SAMPLE_RATE": "sentry_traces_sample_rate",
}


def environments(env: Mapping[str, str]) -> dict[str, Mapping[str, str]]:
    """
    Return the environment of each repository that a worker with *env* serves, by name; a single one's is "".

    Raises:
        SettingsError: The directory or one of its files cannot be read.
    """
    if not env.get(VARIABLE):
        return {"": env}
    directory = Path(env[VARIABLE]).expanduser()
    files = sorted(directory.glob(f"*{_ENDING}"))
    if not files:
        raise SettingsError(f"{VARIABLE}: there is no file NAME{_ENDING} in {directory}")
    return {file.stem: {**env, **_variables(file)} for file in files}


def settings_of(environments: Mapping[str, Mapping[str, str]]) -> dict[str, Settings]:
    """
    Check the environments of all the repositories that one process serves; returns their settings by name.

    Raises:
        SettingsError: Naming everything that is wrong, with the file that it stands in.
    """
    found: dict[str, Settings] = {}
    problems: list[str] = []
    for name, env in environments.items():
        try:
            found[name] = Settings.from_env(env)
        except SettingsError as exc:
            problems.append(f"{name}{_ENDING}: {exc}" if name else str(exc))
    problems += [
        f"{variable}: is one for all that a worker serves, and {name}{_ENDING} has another than the first"
        for name, settings in found.items()
        for variable, field in _COMMON.items()
        if getattr(settings, field) != getattr(next(iter(found.values())), field)
    ]
    if problems:
        raise SettingsError("; ".join(problems))
    return found


def _variables(file: Path) -> dict[str, str]:
    try:
        with file.open(encoding="utf-8") as stream:
            lines = list(parse_stream(stream))
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{VARIABLE}: cannot read {file}: {exc}") from exc
    for line in lines:
        if line.error or (line.key and line.value is None):
            # It is not repeated: what stands here may be a secret.
            raise SettingsError(f"{VARIABLE}: line {line.original.line} of {file} is not NAME=value")
    return {line.key: line.value for line in lines if line.key and line.value is not None}
