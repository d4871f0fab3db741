"""
Whether this process is alive, and whether it can serve.
"""

from __future__ import annotations

from flask import Blueprint
from flask.typing import ResponseReturnValue

from ferry.app.problems import Problem
from ferry.app.services import services
from ferry.app.version import this_build
from ferry.worker.errors import RepositoryError

bp = Blueprint("health", __name__, url_prefix="/api/health")


@bp.get("")
def alive() -> ResponseReturnValue:
    """
    Return 200 as long as the process answers, and which build of Ferry it is.
    """
    build = this_build()
    return {"status": "alive", "version": build.version, "revision": build.revision}


@bp.get("/ready")
def ready() -> ResponseReturnValue:
    """
    Return 200 if the branch can be read. The state of Redis and of the remotes does not matter.

    Raises:
        Problem: 503 if it cannot be read.
    """
    try:
        head = services().pipeline.repository.head()
    except RepositoryError as exc:
        raise Problem(503, "not-ready", str(exc), "Look at the repository with: git fsck") from exc
    if head is None:
        branch = services().pipeline.settings.data_branch
        raise Problem(503, "not-ready", f"The branch {branch!r} has no commits.", "Check CFP_DATA_BRANCH.")
    return {"status": "ready", "commit": head}
