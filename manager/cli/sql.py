"""`imctl sql`: psql on the record, as its reader."""

import os
from pathlib import Path
from typing import Annotated

import typer

from manager.cli.serve import fail, settings_of
from manager.embedded import EmbeddedPostgresError, psql, published
from manager.embedded.backup import without_password

AUDITOR = "im_auditor"


def sql(
    arguments: Annotated[
        list[str] | None, typer.Argument(help="What psql takes, after `--`.", metavar="[-- ...]")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", envvar="IM_DATA_DIR", help="As given to `imctl dev`.")
    ] = None,
    url: Annotated[
        str,
        typer.Option(
            "--url",
            envvar="IM_AUDITOR_URL",
            help="The database, where it is not that of `imctl dev`; its password may as well be in PGPASSWORD.",
            metavar="URL",
        ),
    ] = "",
) -> None:
    """Open psql on the record of a running `imctl dev`, or of a database of your own, as the role im_auditor.

    It may read the views of the schema audit and nothing else. `\\d+ instances` explains a view, and docs/cookbook.md
    has questions with their queries.

    \b
    Examples:
      imctl sql
      imctl sql -- --csv -c 'select * from trees'
      imctl sql --url postgresql://im_auditor@db/instance_manager
    """
    try:
        program = psql(settings_of().postgres_bin)
        address, environment = without_password(url or published(data_dir, AUDITOR))
    except EmbeddedPostgresError as error:
        fail(str(error), "`imctl dev` starts one; --data-dir names another folder, --url another database")
    command = [str(program), address, *(arguments or [])]
    os.execve(program, command, {**os.environ, **environment})  # noqa: S606 - the user's own session
