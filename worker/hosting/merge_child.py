"""
The process that asks the rules of extensions about a merge.

    python -P -m ferry.worker.hosting.merge_child PARENT OURS TREE CALLER SECONDS

It says which extension it asks about which record, and at last the tree to store, or why it is refused.
``merges`` starts it. All rules together have that many seconds.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence

from ferry.extension import Extension, Rule
from ferry.worker.git.credentials import Credentials
from ferry.worker.git.repository import Repository
from ferry.worker.hosting.inside import Say, limited, serve, told
from ferry.worker.hosting.merge_writes import MergedRecords, Pending
from ferry.worker.settings import Settings
from ferry.writes import Caller, Refused


def main(settings: Settings, extensions: tuple[Extension, ...], arguments: Sequence[str], say: Say) -> int:
    """
    Ask the rules; returns the exit status.
    """
    ours, tree, caller, limit_s = arguments
    rules = [
        (extension.name, sheets, rule) for extension in extensions for sheets, rule in extension.hooks.rules
    ]
    if not rules:
        say(tree=tree, has_rules=False)
        return 0
    repository = Repository.of(settings, Credentials.from_settings(settings, os.environ))
    process = os.getpid()
    with limited(float(limit_s)):
        merged = MergedRecords(repository, ours, tree)
        for pending in merged.pending():
            for extension, sheets, rule in rules:
                if sheets is not None and pending.owner.sheet.name not in sheets:
                    continue
                say(asked=extension, about=str(pending))
                try:
                    _ask(rule, pending, Caller(caller), merged)
                except Refused as exc:
                    say(refused=exc.detail, code=exc.code)
                    return 1
                except BaseException as exc:  # noqa: BLE001 - SystemExit and KeyboardInterrupt are failures of it, too
                    if os.getpid() == process:
                        traceback.print_exc()
                        say(failed=told(exc))
                    return 1
        say(tree=merged.tree(), has_rules=True)
    return 0


def _ask(rule: Rule, pending: Pending, caller: Caller, merged: MergedRecords) -> None:
    write = pending.write(caller, merged)
    rule(write)
    is_record = pending.owner.attachment is None and pending.after is not None
    if is_record and write.after is not None and write.after != pending.after:
        pending.after = merged.store(pending, dict(write.after))


if __name__ == "__main__":
    serve(main)
