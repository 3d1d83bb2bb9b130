"""Connections of bad will: each says something wrong in some pieces, and leaves in one way or another."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from tests.fuzz.frames import Script

AT_ONCE = 50
LINGERS = 0.3  # seconds for an answer
PATIENCE = 5.0  # seconds for it to take what is sent


Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Opening: TypeAlias = Callable[[int, Random], Awaitable[Streams]]


async def in_the_clear(port: int, _random: Random) -> Streams:
    """A connection to the port, over which nothing has gone."""
    return await asyncio.open_connection("127.0.0.1", port)


@dataclass(frozen=True, slots=True)
class Stranger:
    """What he says, and how he comes in."""

    script: Callable[[Random], Script]
    opened: Opening = in_the_clear


async def visit(port: int, stranger: Stranger, random: Random) -> bytes:
    """One of them, up to its end; what it was answered."""
    heard = b""
    with suppress(OSError, asyncio.TimeoutError):
        async with asyncio.timeout(PATIENCE):
            reader, writer = await stranger.opened(port, random)
        try:
            async with asyncio.timeout(PATIENCE):
                for piece in stranger.script(random):
                    writer.write(piece)
                    await writer.drain()
                    if random.random() < 0.2:
                        await asyncio.sleep(0.01)
                heard = await _heard(reader, writer, random.choice(("at once", "it ends", "a while", "a while")))
        finally:
            taken: socket.socket | None = writer.get_extra_info("socket")  # within TLS none where it is gone already
            if random.random() < 0.5 and taken:  # gone without a goodbye
                with suppress(OSError):
                    taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort() if random.random() < 0.5 else writer.close()
    return heard


async def _heard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, until: str) -> bytes:
    if until == "at once":
        return b""
    if until == "it ends" and writer.can_write_eof():
        writer.write_eof()
    heard = bytearray()
    with suppress(asyncio.TimeoutError):
        async with asyncio.timeout(LINGERS):
            while piece := await reader.read(65536):
                heard += piece
    return bytes(heard)


async def visits(port: int, strangers: Mapping[str, Stranger], count: int, random: Random) -> list[tuple[str, bytes]]:
    """So many, some at once, the kinds in turns; what each was answered."""
    answers: list[tuple[str, bytes]] = []
    room = asyncio.Semaphore(AT_ONCE)
    names = list(strangers)

    async def one(number: int) -> None:
        async with room:
            name, own = names[number % len(names)], Random(f"{random.random()}")
            answers.append((name, await visit(port, strangers[name], own)))

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))
    return answers
