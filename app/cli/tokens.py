"""
``ferry token``: make tokens for the API's writers.
"""

from __future__ import annotations

import hashlib
import secrets
import sys

import click

from ferry.worker.settings import parse_tokens


@click.group()
def token() -> None:
    """
    Make tokens for the API's clients.
    """


@token.command("new")
@click.argument("name")
@click.option(
    "--sheet",
    "sheets",
    multiple=True,
    help="A sheet that it may write; repeatable. Default: all sheets.",
)
def new_token(name: str, sheets: tuple[str, ...]) -> None:
    """
    Make a token for NAME, and print it together with its entry for CFP_API_TOKENS.

    The entry holds only the token's hash, so the token is shown this once.
    """
    made = f"ferry_{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(made.encode()).hexdigest()
    pair = ":".join([name, digest, *(["+".join(sheets)] if sheets else [])])
    try:
        parse_tokens(pair)
    except ValueError:
        sys.exit(f"ferry: {name!r} cannot name a token; use at most 63 letters, digits, '.', '_' and '-'")
    click.echo(f"token:          {made}")
    click.echo(f"CFP_API_TOKENS: {pair}")
