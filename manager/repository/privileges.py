"""What the role that a manager logs in as may do beyond its work, and whether the way to the database is verified."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlsplit

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.repository.hosts import hosts_of

# of the session's own role: what it has set itself to it may unset
LOOK = text("""
select session_user as role, r.rolsuper as superuser,
       exists (
           select from pg_class c
           where c.relnamespace = cast('public' as regnamespace) and c.relkind in ('r', 'p')
             and pg_has_role(r.oid, c.relowner, 'member')
       ) as owner,
       r.rolcreaterole or r.rolcreatedb or has_schema_privilege(r.oid, 'public', 'create')
           or has_database_privilege(r.oid, current_database(), 'create') as ddl
from pg_roles r where r.rolname = session_user
""")


@dataclass(frozen=True, slots=True)
class Privileges:
    """A role: whether it is a superuser, owns tables (or may become who does), and may make or change such things."""

    role: str
    superuser: bool
    owner: bool
    ddl: bool


async def beyond(connection: AsyncConnection, url: str) -> list[str]:
    """A sentence for whatever a manager on this connection would be trusted with and has no need of, and for an
    unverified way to its database."""
    found = Privileges(**(await connection.execute(LOOK)).one()._mapping)
    return [*_ways(url), *_rights(found)]


def _ways(url: str) -> Iterator[str]:
    if hosts := unverified(url):
        yield (
            f"the database at {', '.join(hosts)} is reached without verified TLS: add sslmode=verify-full to its"
            " address, and sslrootcert where its authority is your own"
        )


def _rights(found: Privileges) -> Iterator[str]:
    if found.superuser:
        yield f"the database's role {found.role} is a superuser: serve as im_server"
        return
    if found.owner:
        yield f"the database's role {found.role} owns tables: serve as im_server"
    if found.ddl:
        yield f"the database's role {found.role} may change the schema: serve as im_server"


def unverified(url: str, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The hosts of a database that are reached over a network without its being known that it is they."""
    mode = dict(parse_qsl(urlsplit(url).query)).get("sslmode") or environment.get("PGSSLMODE", "")
    if mode == "verify-full":
        return []
    named = [(str(each), each.name) for each in hosts_of(url) if each.name]
    # where the address names none, the environment does
    named = named or [(each, each) for each in environment.get("PGHOST", "").split(",") if each]
    return [shown for shown, name in named if not _here(name)]


def _here(host: str) -> bool:
    """Whether it is this machine: a folder of sockets, or an address of the loopback."""
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
