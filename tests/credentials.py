"""Tokens for tests, made in the database as `imctl token` makes them."""

from datetime import timedelta
from itertools import count
from uuid import UUID

from manager.domain.instance import InstanceId
from manager.domain.principal import Role
from manager.domain.token import digest, new_token
from manager.repository import tokens
from manager.repository.database import Session, engine_of
from manager.repository.tokens import Grant
from tests.conftest import Database

numbers = count(1)


async def granted(
    database: Database, role: Role, instance: str | None = None, *, lasts: timedelta | None = None
) -> str:
    """A new token of that role."""
    token = new_token()
    of = InstanceId(UUID(instance)) if instance else None
    grant = Grant(f"{role} {next(numbers)}", role, digest(token), instance=of, lasts=lasts)
    session = Session(engine_of(database.url, name="test"))
    try:
        async with session.use() as connection:
            assert await tokens.create(connection, grant)
    finally:
        await session.close()
    return token


async def revoked(database: Database, token: str) -> None:
    """Revokes it."""
    await database.run("update token set revoked_at = clock_timestamp() where hash = $1", digest(token))


def bearing(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that shows it; none for no token."""
    return (("authorization", f"Bearer {token}"),) if token else ()
