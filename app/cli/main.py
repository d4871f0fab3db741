"""
The command ``ferry``.
"""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from pathlib import Path
from typing import cast

import click

from ferry.app.version import this_build
from ferry.worker.errors import WorkerError

# The commands of other modules: what each is called there.
_ELSEWHERE = {
    "beat": "processes:beat",
    "branches": "branches:branches",
    "commits": "repository:commits",
    "doctor": "checks:doctor",
    "export": "exchange:export",
    "hooks": "hooks:hooks",
    "import": "exchange:import_",
    "init": "repository:init",
    "page": "checks:send_page",
    "promote": "promote:promote",
    "push": "pushes:push",
    "reconcile": "reconcile:reconcile",
    "token": "tokens:token",
    "verify": "checks:verify_remotes",
    "worker": "processes:worker",
}


class _Commands(click.Group):
    """
    The commands of this module, and those of ``_ELSEWHERE``.

    Imports a module when one of its commands is used: Celery alone takes longer than most commands.
    """

    def list_commands(self, context: click.Context) -> list[str]:
        """
        Return the names of all commands.
        """
        return sorted([*self.commands, *_ELSEWHERE])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """
        Return the command *name*, or None.
        """
        if name not in _ELSEWHERE:
            return super().get_command(context, name)
        module, _, attribute = _ELSEWHERE[name].partition(":")
        gc.disable()  # what is imported stays: to search it for garbage takes a tenth of a command's time
        try:
            return cast(click.Command, getattr(import_module(f"ferry.app.cli.{module}"), attribute))
        finally:
            gc.enable()


def _print_version(context: click.Context, *, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(f"ferry {this_build()}")
        context.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda context, parameter, value: _print_version(context, wanted=value),
    help="Print the version and the git revision, and exit.",
)
def main() -> None:
    """
    A REST API over a gitsheets repository, whose every commit reaches its remote.
    """


@main.command()
@click.argument("repository", required=False, type=click.Path(path_type=Path))
@click.option("--remote", help="git URL or path of the remote. Default: CFP_DATA_REMOTE.")
@click.option(
    "--port",
    default=8000,
    type=click.IntRange(0, 65535),
    show_default=True,
    help="The API's port; 0 for a free one.",
)
@click.option(
    "--flower-port",
    default=5555,
    type=click.IntRange(0, 65535),
    show_default=True,
    help="Flower's port; 0 for a free one.",
)
def dev(repository: Path | None, remote: str | None, port: int, flower_port: int) -> None:
    """
    Run everything on this machine, over the bare REPOSITORY or a sample.

    Starts its own Valkey, listens on loopback only, needs no token, and honours every
    other CFP_* variable. Ctrl-C stops everything.
    """
    from ferry.app.dev.preloaded import nursery

    with nursery() as forks:
        from ferry.app.dev.stack import DevError, run_dev

        try:
            run_dev(forks, repository, remote, port=port, flower_port=flower_port)
        except (DevError, WorkerError) as exc:
            sys.exit(f"ferry: {exc}")
        except KeyboardInterrupt:
            sys.exit(130)


@main.command()
def demo() -> None:
    """
    Show the main job: commits made over HTTP arrive at a remote.

    Makes a sample repository and a remote, starts everything on free ports, writes records,
    provokes a non-fast-forward and shows the page. Ends by itself. Exit status: 0 only if all
    of that happened.
    """
    from ferry.app.dev.preloaded import nursery

    with nursery() as forks:
        from ferry.app.dev.demo import DemoError, run_demo
        from ferry.app.dev.stack import DevError

        try:
            run_demo(forks)
        except (DemoError, DevError, WorkerError) as exc:
            sys.exit(f"ferry demo failed: {exc}")
        except KeyboardInterrupt:
            sys.exit(130)


if __name__ == "__main__":
    main()
