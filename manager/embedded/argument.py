"""A database's address as an argument, which everybody on the machine can read: its password goes beside it."""

import re
from collections.abc import Iterator
from urllib.parse import unquote

SECRETS = ("password", "sslpassword")
# the two forms that libpq takes: postgresql://user:password@host/database?name=value, and name=value name='it\'s'
URL = re.compile(r"(\w[\w+]*://)(?:([^/:]*)(?::([^/]*))?@)?([^?]*)\??(.*)", re.S)
WORD = re.compile(r"\s*(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)\s*", re.S)


def without_password(address: str) -> tuple[str, dict[str, str]]:
    """The address for PostgreSQL's own programs, and the environment that has its password, where it names one."""
    passwords = [value for name, value in _named(address) if name == "password"]
    if not passwords:
        return address, {}
    if url := URL.fullmatch(address):
        scheme, user, _, place, query = url.groups()
        kept = "&".join(each for each in query.split("&") if unquote(each.partition("=")[0]) != "password")
        bare = f"{scheme}{f'{user}@' if user else ''}{place}{f'?{kept}' if kept else ''}"
    else:
        bare = " ".join(each[0].strip() for each in WORD.finditer(address) if each[1] != "password")
    return bare, {"PGPASSWORD": passwords[-1]}


def tells_secret(address: str) -> bool:
    """Whether it has a password in it, the role's or that of a key."""
    return any(value for name, value in _named(address) if name in SECRETS)


def _named(address: str) -> Iterator[tuple[str, str]]:
    """Its password, and what else it names; of one name the last counts, as it does for libpq."""
    if url := URL.fullmatch(address):
        if url[3] is not None:
            yield "password", unquote(url[3])
        for name, _, value in (each.partition("=") for each in url[5].split("&")):
            yield unquote(name), unquote(value)
    else:
        for each in WORD.finditer(address):
            quoted = each[2][1:-1] if each[2].startswith("'") else each[2]
            yield each[1], re.sub(r"\\(.)", r"\1", quoted, flags=re.S)
