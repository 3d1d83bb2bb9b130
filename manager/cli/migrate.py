"""`imctl migrate`: the schema, brought to this release's."""

import asyncio
from typing import Annotated

import typer

from manager.cli.serve import fail, say, settings_of
from manager.repository import migrations
from manager.repository.database import refusal_of


def migrate(
    to: Annotated[str, typer.Argument(help="The version to go to.", metavar="VERSION")] = "head",
    down: Annotated[bool, typer.Option("--down", help="Go down to VERSION (`base`: remove everything).")] = False,
) -> None:
    """Bring the schema of DATABASE_URL up to this release's.

    The role in DATABASE_URL must own the database or be a superuser. The schema belongs to the role im_owner, and
    managers serve as im_server; both are made here. Let managers log in with: ALTER ROLE im_server LOGIN PASSWORD '...'
    """
    url = settings_of().database_url
    if not url:
        fail("DATABASE_URL is not set", "name the database: DATABASE_URL=postgresql://postgres@host/instance_manager")
    try:
        asyncio.run(migrations.downgrade(url, to) if down else migrations.upgrade(url, to))
    except Exception as error:
        if refusal_of(error) is None:
            raise
        fail(f"the database cannot be used: {error}")
    say(f"the schema is at {migrations.newest() if to == 'head' else to}")
