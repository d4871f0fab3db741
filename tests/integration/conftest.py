"""
A replica: origin with everything, the replica's clone of it, and its environment.
"""

from __future__ import annotations

import pytest

from tests.parts import Bare


@pytest.fixture
def there(data, remote) -> Bare:
    """
    Origin, which has all of ``data``.
    """
    data.git("push", "--quiet", remote.path, "main:main")
    return remote


@pytest.fixture
def copy(there, ferry, tmp_path) -> Bare:
    """
    The replica's own clone, as ``ferry init`` makes it.
    """
    path = tmp_path / "replica.git"
    done = ferry("init", CFP_DATA_REPO_PATH=str(path), CFP_API_ROLE="replica", CFP_REDIS_URL="")
    assert done.returncode == 0, done.stderr
    return Bare(path)


@pytest.fixture
def replica_env(env, copy) -> dict[str, str]:
    return {**env, "CFP_DATA_REPO_PATH": str(copy.path), "CFP_API_ROLE": "replica", "CFP_REDIS_URL": ""}
