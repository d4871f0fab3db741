"""
Asking the rules of extensions about a merge, in a process of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ferry.worker.errors import ReconcileError
from ferry.worker.hosting import merge_child
from ferry.worker.hosting.process import Report, report_of
from ferry.worker.ledger.entry import Refusal
from ferry.worker.ledger.operators import Operator
from ferry.worker.observe.logs import log
from ferry.worker.observe.printable import in_line
from ferry.worker.observe.redaction import redact
from ferry.worker.settings import Settings

_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 63
_MESSAGE_CHARACTERS = 500
_RULES_S = 10.0  # for all rules of a merge
_START_S = 20.0  # on a busy machine; a push waits, and where a writer came between also the other writers


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """
    What the rules make of a merge.

    Attributes:
        tree: The tree to store.
        refusal: Why it is not to be stored; None: it is.
    """

    tree: str
    refusal: Refusal | None = None


class MergeRules:
    """
    The rules of the extensions of one repository, for its merges.

    Args:
        settings: The extensions, and the data repository.
        env: Environment of the repository.
    """

    def __init__(self, settings: Settings, env: Mapping[str, str]) -> None:
        self._env = env
        self._has_rules: bool | None = None if settings.extensions else False

    def serve(self, *, has_rules: bool) -> None:
        """
        Note whether there are rules: without any, no process is started.
        """
        self._has_rules = has_rules

    def review(self, ours: str, tree: str, by: Operator) -> Review:
        """
        Ask the rules about each write of a merge.

        Args:
            ours: Our tip.
            tree: The merged tree.
            by: Who asks for the merge: the writes' caller.

        Raises:
            ReconcileError: They cannot be asked.
        """
        if self._has_rules is False:
            return Review(tree=tree)
        arguments = [ours, tree, caller_of(by), str(_RULES_S)]
        try:
            report = report_of(merge_child.__name__, arguments, self._env, timeout_s=_START_S + _RULES_S)
        except OSError as exc:
            raise ReconcileError(f"the rules of extensions cannot be asked: {exc}") from exc
        if reviewed := report.first("tree"):
            self._has_rules = bool(report.first("has_rules"))
            return Review(tree=reviewed)
        asked, refused = report.all("asked"), report.first("refused")
        failure = report.first("failed") or report.ended(_RULES_S)
        if not asked:
            raise ReconcileError(
                f"the rules of extensions cannot be asked: {failure}{report.last_printed()}; "
                "the command needs their directory (PYTHONPATH) and the variables that they read"
            )
        refusal = Refusal(
            extension=asked[-1],
            record=in_line(report.all("about")[-1]),
            message=redact(in_line(failure if refused is None else refused))[:_MESSAGE_CHARACTERS],
            has_failed=refused is None,
        )
        _tell(refusal, report)
        return Review(tree=tree, refusal=refusal)


def caller_of(by: Operator) -> str:
    """
    Return the name by which rules know an operator: that of the token, or of the user; ``ferry`` for Ferry.
    """
    name = _NO_NAME.sub("-", by.who.partition("@")[0]).strip("._-")[:_LONGEST_NAME]
    return name or "operator"


def _tell(refusal: Refusal, report: Report) -> None:
    log().warning(
        "reconcile.refused",
        extension=refusal.extension,
        record=refusal.record,
        error=refusal.message,
        has_failed=refusal.has_failed,
        said=report.printed.strip(),
    )
