"""Who calls, and whether they may: asked before anything else of a call, so that nothing is learnt by asking."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any, Protocol, TypeVar

from manager.denials import Denials
from manager.domain.principal import Principal
from manager.domain.refusals import PermissionDenied, Unauthenticated
from manager.domain.token import PREFIX, digest, well_formed
from manager.keyring import UNKNOWN, Keyring
from manager.wire.actor import host_of
from manager.wire.principal import CALLING
from manager.wire.rights import RIGHTS, Row, Whose, about_only
from manager.wire.tls import NAMES
from manager.wire.until import until

T = TypeVar("T")

ASKED = "this manager asks for a token: imctl and manager.client send the one in IM_TOKEN, as `authorization: Bearer`"
NO_LONGER = "the token was revoked, or has expired"
COOKIE = "im_session"
SCHEME = "bearer "
SPIFFE = "spiffe://"
UNAUTHENTICATED, PERMISSION_DENIED = 16, 7  # as gRPC numbers them


class Context(Protocol):
    """As much of a call as says who makes it."""

    def peer(self) -> str:
        """The client's address, as gRPC writes it."""

    def invocation_metadata(self) -> Any:
        """Pairs of names and values."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What the transport knows of the client's certificate."""


def shown(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """The token in a call's metadata, or in the session of a browser; None without one."""
    session = None
    for name, value in metadata:
        if name == "authorization" and isinstance(value, str):
            if value[: len(SCHEME)].lower() != SCHEME:
                raise Unauthenticated(ASKED)
            return value[len(SCHEME) :].strip()
        if name == "cookie" and isinstance(value, str):
            session = session or _session(value)
    return session


def _session(header: str) -> str | None:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return found.value if found else None


def certified(names: Iterable[bytes]) -> str | None:
    """The SPIFFE name in a certificate that the transport has verified; None without one."""
    own = [each.decode(errors="replace") for each in names if each.startswith(SPIFFE.encode())]
    return own[0] if len(own) == 1 else None  # a certificate has one, or is not one of these


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who may call a method, and as whom."""

    credential: bytes
    principal: Principal
    whose: Whose


async def known(keyring: Keyring, token: str) -> tuple[bytes, Principal]:
    """The digest of a token, and whose it is. Raises Unauthenticated, or Unavailable where nobody can say."""
    # the digests of names in certificates are there too; and of text that is no UTF-8 there is none
    if not (token.startswith(PREFIX) and token.isascii()):
        raise Unauthenticated(UNKNOWN)
    credential = digest(token)
    principal = keyring.known(credential)
    if principal is None:
        if not well_formed(token):
            raise Unauthenticated(UNKNOWN)
        principal = await keyring.principal(credential)
    return credential, principal


class Door:
    """Before one method, or one path of HTTP. Whom it turns away it has counted."""

    def __init__(self, path: str, keyring: Keyring, denials: Denials, *, certificates: bool) -> None:
        self._path = path
        self._row: Row = RIGHTS[path]
        self._keyring = keyring
        self._denials = denials
        self._certificates = certificates

    async def enter(self, context: Context) -> Caller:
        """Who calls. Raises Unauthenticated, PermissionDenied, or Unavailable where nobody can say."""
        try:
            credential, principal = await self._known(context)
        except Unauthenticated:
            self._denials.count("", host_of(context.peer()), self._path, UNAUTHENTICATED)
            raise
        whose = self._row.get(principal.role)
        if whose is None:
            raise self._denied(principal, context, f"a token of role {principal.role} is not for this call")
        CALLING.set(principal)
        return Caller(credential, principal, whose)

    def judge(self, caller: Caller, request: Any, context: Context) -> None:
        """Raises PermissionDenied where the request is about others than the caller may act for."""
        if caller.whose is Whose.OWN and not about_only(request, caller.principal.instance):
            told = "a token of an instance is good for that instance alone"
            raise self._denied(caller.principal, context, told)

    def _denied(self, principal: Principal, context: Context, told: str) -> PermissionDenied:
        self._denials.count(principal.name, host_of(context.peer()), self._path, PERMISSION_DENIED)
        return PermissionDenied(told)

    async def _known(self, context: Context) -> tuple[bytes, Principal]:
        token = shown(context.invocation_metadata() or ())
        if token is not None:
            return await known(self._keyring, token)
        name = certified(context.auth_context().get(NAMES, ())) if self._certificates else None
        if name is None:
            raise Unauthenticated(ASKED)
        credential = digest(name)
        return credential, await self._keyring.principal(credential)

    def held(self, caller: Caller, ended: Callable[[], None]) -> AbstractContextManager[None]:
        """Has `ended` called as soon as the caller may no longer call."""
        return self._keyring.held(caller.credential, ended)

    async def sure(self) -> None:
        """Before each message of a stream, as before a call; raises Unavailable where nobody can say who may call."""
        await self._keyring.sure()

    async def while_good(self, caller: Caller, items: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """What comes one by one, for as long as the caller may call; then raises Unauthenticated, or Unavailable where
        nobody can say."""
        ended = asyncio.Event()
        with self.held(caller, ended.set):
            async with aclosing(until(ended, self._surely(items), lambda: Unauthenticated(NO_LONGER))) as coming:
                async for each in coming:
                    yield each

    async def _surely(self, items: AsyncIterator[T]) -> AsyncIterator[T]:
        async for each in items:
            await self.sure()
            yield each


class Authority:
    """The doors. `certificates`: the transport asks clients for theirs."""

    def __init__(self, keyring: Keyring, denials: Denials, *, certificates: bool) -> None:
        self._keyring = keyring
        self._denials = denials
        self._certificates = certificates

    def door(self, path: str) -> Door:
        """That of a method or path; KeyError where the table does not name it."""
        return Door(path, self._keyring, self._denials, certificates=self._certificates)

    async def know(self, token: str, path: str, context: Context) -> None:
        """Raises Unauthenticated unless somebody has this token, which was shown at a path of HTTP."""
        try:
            await known(self._keyring, token)
        except Unauthenticated:
            self._denials.count("", host_of(context.peer()), path, UNAUTHENTICATED)
            raise
