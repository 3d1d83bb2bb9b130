"""The client: one connection to the managers, and every service of theirs on it."""

from types import TracebackType
from typing import Self

from manager.client.access import OPEN, Access
from manager.client.address import address, targets, together
from manager.client.channel import connect
from manager.client.lifeline import Lifeline
from manager.pb.fleet_pb2_grpc import FleetServiceStub
from manager.pb.instance_manager_pb2_grpc import GetServiceStub, PostServiceStub, SubscribeServiceStub, TryServiceStub
from manager.pb.stats_service_pb2_grpc import StatsServiceStub

DEADLINE = 10.0


class Client:
    """A connection to one manager or several, which take the calls in turns and stand in for each other.

    Make it inside a running event loop, and use it as `async with Client("10.0.0.1:50052") as client:`. Its parts are
    the generated stubs, one a service: `try_`, `get`, `post`, `subscribe`, `fleet`, `stats`; instances check their
    health by the `lifeline`. Single calls have `deadline` seconds unless they name a `timeout`; `Try*` and `Get*` are
    repeated while a manager is UNAVAILABLE, posts are not. Calls raise `manager.client.errors.ManagerError`. Raises
    ValueError for an address that is none, and OSError when none of several names can be resolved. `access` is for
    managers that ask for a token, or speak TLS.
    """

    def __init__(self, *addresses: str, deadline: float = DEADLINE, access: Access = OPEN) -> None:
        known = targets([address(each) for each in addresses or ("127.0.0.1",)])
        self.channel = connect(together(known), deadline, access)
        self.lifeline = Lifeline(known, deadline, access)
        self.try_ = TryServiceStub(self.channel)
        self.get = GetServiceStub(self.channel)
        self.post = PostServiceStub(self.channel)
        self.subscribe = SubscribeServiceStub(self.channel)
        self.fleet = FleetServiceStub(self.channel)
        self.stats = StatsServiceStub(self.channel)

    async def close(self) -> None:
        """Ends the connections; calls under way end in CANCELLED."""
        await self.lifeline.close()
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
