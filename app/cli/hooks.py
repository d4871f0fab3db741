"""
``ferry hooks``: the functions that extensions have for commits, pushes and divergences.
"""

from __future__ import annotations

import sys

import click

from ferry.app.cli.context import open_pipeline, with_hooks
from ferry.extension import EVENTS, Event
from ferry.worker.after.hooks import Hook
from ferry.worker.pipeline import Pipeline

_EVENT = click.option(
    "--event", default="commit", show_default=True, type=click.Choice(EVENTS), help="Which functions."
)


@click.group()
def hooks() -> None:
    """
    Act on the functions that extensions have for commits and pushes.
    """


@hooks.command("skip")
@click.argument("extension")
@_EVENT
def skip(extension: str, event: Event) -> None:
    """
    Leave out the next commit, or push, that the functions of EXTENSION would be called for.

    For one that they cannot bear. What comes after it is told with the next sweep.
    """
    with open_pipeline() as pipeline:
        hook = _hook(pipeline, extension, event)
        skipped = pipeline.after.skip(hook)
        click.echo(f"{hook}: {'nothing waits' if skipped is None else f'left out {skipped}'}")


@hooks.command("again")
@click.argument("extension")
@click.argument("what", required=False, default="")
@_EVENT
def again(extension: str, what: str, event: Event) -> None:
    """
    Call the functions of EXTENSION once more for WHAT, here and now.

    WHAT is the full name of a commit; with --event push BEFORE..AFTER, as the push was
    told; with --event divergence nothing: it is told while it lasts. What the functions
    print is shown. Exit status: 1 if they fail.
    """
    if not what and event != "divergence":
        raise click.UsageError("name what to tell again: COMMIT, or BEFORE..AFTER with --event push")
    with open_pipeline() as pipeline:
        hook = _hook(pipeline, extension, event)
        outcome = pipeline.after.call_again(hook, what)
        if outcome.said:
            click.echo(outcome.said.rstrip(), err=True)
        if outcome.failed:
            sys.exit(f"ferry: {hook}: {outcome.failed}")
        click.echo(f"{hook}: called for {what or 'the divergence that lasts'}")


@hooks.command("resume")
@click.argument("extension")
def resume(extension: str) -> None:
    """
    Call the functions of EXTENSION again, after one of them has stopped the calls.

    As where a receiver of webhooks has answered 410 Gone. What waits is told with the next
    sweep.
    """
    with open_pipeline() as pipeline:
        with_hooks(pipeline)
        resumed = pipeline.after.resume(extension)
        click.echo(f"{extension}: {'resumed' if resumed else 'nothing had stopped it'}")


def _hook(pipeline: Pipeline, extension: str, event: str) -> Hook:
    """
    Return the functions of *extension* for *event*; ends the command if there are none.
    """
    with_hooks(pipeline)
    hook = pipeline.after.find(extension, event)
    if hook is None:
        known = "; ".join(map(str, pipeline.after.hooks)) or "none; see CFP_API_EXTENSIONS"
        sys.exit(f"ferry: {extension} has no function for the event {event}; there are: {known}")
    return hook
