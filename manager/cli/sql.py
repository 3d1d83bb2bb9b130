"""`imctl sql`: a query to the record, or psql on it, as its reader."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from manager.cli.address import unreadable
from manager.cli.output import Shown
from manager.cli.serve import fail, settings_of
from manager.embedded import EmbeddedPostgresError, psql, published
from manager.embedded.argument import without_password

AUDITOR = "im_auditor"


def sql(
    shown: Shown,
    arguments: Annotated[
        list[str] | None, typer.Argument(help="What psql takes, after `--`.", metavar="[-- ...]")
    ] = None,
    query: Annotated[
        str, typer.Option("--command", "-c", help="A query to be answered, instead of psql.", metavar="QUERY")
    ] = "",
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", envvar="IM_DATA_DIR", help="As given to `imctl dev`.")
    ] = None,
    url: Annotated[
        str,
        typer.Option(
            "--url",
            envvar="IM_AUDITOR_URL",
            callback=unreadable,
            help="The database, where it is not that of `imctl dev`; its password is in PGPASSWORD or ~/.pgpass.",
            metavar="URL",
        ),
    ] = "",
) -> None:
    """Answer a query to the record of a running `imctl dev`, or of a database of your own, as the role im_auditor.

    Without a query it opens psql, which takes all that comes after `--`. The role may read the views of the schema
    audit and nothing else. In psql `\\d+ instances` explains a view; docs/cookbook.md has questions with their queries.

    \b
    Examples:
      imctl sql
      imctl sql -c 'select type, healthy, dead from type_statistics' -o json
      imctl sql -- --csv -c 'select * from trees'
      imctl sql --url postgresql://im_auditor@db/instance_manager
    """
    if query and arguments:
        raise typer.BadParameter("a query, or what psql takes, and not both", param_hint="--command")
    if not query and shown != Shown():
        raise typer.BadParameter("psql has formats of its own: give a query by --command", param_hint="--output")
    try:
        address = named(url) if url else published(data_dir, AUDITOR)
        program = None if query else psql(settings_of().postgres_bin)
    except EmbeddedPostgresError as error:
        fail(str(error), "`imctl dev` starts one; --data-dir names another folder, --url another database")
    if program is None:
        answer(shown, address, query)
    else:
        bare, environment = without_password(address)
        command = [str(program), bare, *(arguments or [])]
        os.execve(program, command, {**os.environ, **environment})  # noqa: S606 - the user's own session


def named(url: str) -> str:
    """As the auditor, where the address names no role: else it would be the account's, whatever that may do."""
    scheme, separator, place = url.partition("://")
    names_nobody = separator and "@" not in place.partition("/")[0] and "user=" not in place.partition("?")[2]
    return f"{scheme}://{AUDITOR}@{place}" if names_nobody else url


def answer(shown: Shown, address: str, query: str) -> None:
    """Writes what the query gives. Its columns are known only then."""
    from manager.cli.answers import sheet_of
    from manager.repository.question import Unanswered, ask

    try:
        found = asyncio.run(ask(address, query))
    except Unanswered as error:
        fail(str(error), error.hint)
    shown.of(sheet_of(found)).many(found.rows)
