"""`python -m bench.readers ADDRESS COUNT [HOSTS]`: so many subscribers, as cheap as a client can be.

With HOSTS each asks for one of so many hosts, `host-0` and so on; else for everything.

They say `ready` on stdout once all are connected. Each line on stdin is a command: `take N` waits until every one has
N more messages and answers with their times of arrival (seconds, on this machine's clock), one line a subscriber;
`drop` answers with how many each has got, and forgets them; `resumed` with how often all of them have gone on from
their last message, since their connection had come to its age; `end` ends. A subscriber whose stream ends otherwise
says so in place of its answer.
"""

import asyncio
import json
import sys
import time
from typing import Any

import grpc
from grpc import aio

from manager.pb import instance_manager_pb2 as pb
from manager.pb.version import PROTO_VERSION

VERSION = (("proto_version", PROTO_VERSION),)
METHOD = "/instance_manager.SubscribeService/SubscribeToInstanceUpdates"
A_CONNECTION = 100
WITHIN = 900.0


class Reader:
    """One subscriber; it looks at no message."""

    def __init__(self, channel: aio.Channel, request: pb.SubscribeRequest) -> None:
        self.times: list[float] = []
        self.size = 0
        self.ended = ""
        self.resumed = 0
        self.connected = asyncio.Event()
        self._channel = channel
        self._request = request
        self._begun = self._last = b""  # the place where its stream began, and the last message of it

    async def read(self) -> None:
        """Reads for ever, over the ends of connections; not over that of their manager."""
        while not self.ended:
            self._begun, self._last = b"", b""
            code = await self._stream()
            if code is not grpc.StatusCode.UNAVAILABLE or not self._begun:
                self.ended = code.name
                self.connected.set()
                return
            last = pb.InstanceUpdate.FromString(self._last).resume_token
            self._request.resume_token = last or self._begun
            self.resumed += 1

    async def _stream(self) -> grpc.StatusCode:
        method: Any = self._channel.unary_stream(METHOD, request_serializer=None, response_deserializer=None)
        call = method(self._request.SerializeToString(), metadata=VERSION)
        try:
            self._begun = dict(await call.initial_metadata())["resume_token-bin"]
            self.connected.set()
            async for message in call:
                self.times.append(time.time())
                self.size += len(message)
                self._last = message
        except aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


def asked(number: int, hosts: int) -> pb.SubscribeRequest:
    """What a subscriber asks for; who sees little goes on from a bookmark, as the protocol advises."""
    names = [f"host-{number % hosts}"] if hosts else []
    kinds = [pb.ADDED, pb.REMOVED, pb.UPDATED]
    return pb.SubscribeRequest(event_types=kinds, hostnames=names, send_bookmarks=bool(hosts))


async def main(address: str, count: int, hosts: int = 0) -> None:
    """Connects, and obeys."""
    channels = [
        aio.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),))
        for _ in range((count + A_CONNECTION - 1) // A_CONNECTION)
    ]
    readers = [Reader(channels[number % len(channels)], asked(number, hosts)) for number in range(count)]
    tasks = [asyncio.create_task(each.read()) for each in readers]
    await asyncio.gather(*(each.connected.wait() for each in readers))
    print("ready", flush=True)
    while (command := (await asyncio.to_thread(sys.stdin.readline)).split()) and command[0] != "end":
        if command[0] == "drop":
            for each in readers:
                print(json.dumps(each.ended or len(each.times)))
                each.times.clear()
            sys.stdout.flush()
            continue
        if command[0] == "resumed":
            print(sum(each.resumed for each in readers), flush=True)
            continue
        wanted = int(command[1])
        async with asyncio.timeout(WITHIN):
            while any(len(each.times) < wanted and not each.ended for each in readers):
                await asyncio.sleep(0.02)
        for each in readers:
            print(json.dumps(each.ended or each.times[:wanted]))
            each.times = each.times[wanted:]
        sys.stdout.flush()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for channel in channels:
        await channel.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
