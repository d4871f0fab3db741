"""
GitPython, imported so that neither a missing git nor a broken configuration ends the import.

GitPython runs ``git version`` when it is imported. With this module the first command that needs git reports
the fault in one line instead. A process that does not need GitPython starts a tenth of a second faster
without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["git", "options"]

# Without git on the PATH, GitPython's import raises; a push reports that instead.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
_MEANWHILE = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
_before = {name: os.environ.get(name) for name in _MEANWHILE}
os.environ.update(_MEANWHILE)
try:
    import git  # noqa: TID251 - the one place that may
finally:
    for _name, _value in _before.items():
        os.environ.pop(_name)
        if _value is not None:
            os.environ[_name] = _value


def options(git_dir: str | Path) -> Iterator[tuple[str, str, str, str]]:
    """
    Yield what files configure for *git_dir*: level (``repository`` is its own), section, option and value.

    In git's order: an option's last value wins. An option without a value is true.

    Raises:
        git.GitError, configparser.Error, OSError: GitPython cannot read it.
    """
    with git.Repo(git_dir) as repo:
        for level in repo.config_level:
            with repo.config_reader(level) as config:
                for section in config.sections():
                    for option, values in config.items_all(section):
                        for value in values:
                            yield level, section, option, "true" if value is None else str(value)
