"""`imctl sql`: psql on the database of `imctl dev`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from manager.cli.serve import fail, settings_of
from manager.embedded import EmbeddedPostgresError, psql, published


def sql(
    arguments: Annotated[
        list[str] | None, typer.Argument(help="What psql takes, after `--`.", metavar="[-- ...]")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", envvar="IM_DATA_DIR", help="As given to `imctl dev`.")
    ] = None,
) -> None:
    """Open psql on the database of a running `imctl dev`, as the role that it serves as.

    `\\d+ live_instance` explains a view.

    \b
    Examples:
      imctl sql
      imctl sql -- --csv -c 'select * from instance_tree'
    """
    try:
        program, url = psql(settings_of().postgres_bin), published(data_dir)
    except EmbeddedPostgresError as error:
        fail(str(error), "`imctl dev` starts one; --data-dir names another folder")
    os.execv(program, [str(program), url, *(arguments or [])])  # noqa: S606 - the user's own session
