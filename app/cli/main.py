"""
The command ``ferry``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ferry.app.cli import branches, checks, exchange, hooks, promote, pushes, reconcile, repository, tokens
from ferry.app.version import this_build
from ferry.worker.errors import WorkerError


def _print_version(context: click.Context, *, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(f"ferry {this_build()}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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
    from ferry.app.dev.stack import DevError, run_dev

    try:
        run_dev(repository, remote, port=port, flower_port=flower_port)
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
    from ferry.app.dev.demo import DemoError, run_demo
    from ferry.app.dev.stack import DevError

    try:
        run_demo()
    except (DemoError, DevError, WorkerError) as exc:
        sys.exit(f"ferry demo failed: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)


for command in (
    branches.branches,
    checks.doctor,
    checks.send_page,
    checks.verify_remotes,
    exchange.export,
    exchange.import_,
    hooks.hooks,
    promote.promote,
    pushes.push,
    repository.commits,
    repository.init,
    reconcile.reconcile,
    tokens.token,
):
    main.add_command(command)
