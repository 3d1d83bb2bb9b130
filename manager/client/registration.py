"""What an instance has told the manager of itself, kept so that it can be told again after a loss of data."""

from manager.client.access import bearing
from manager.client.connection import Client
from manager.client.errors import RefusedError
from manager.pb.instance_manager_pb2 import (
    REASON_ID_TAKEN,
    AddChildRequest,
    AddServiceRequest,
    Bool,
    InstanceDescription,
    Service,
)

TOKEN = "instance_token"  # noqa: S105 - the name of the metadata


class Registration:
    """One instance as registered; `owed` and `link_due` say what of it has to be told again.

    `token` is the instance's own, where the manager gave it one; it comes with what the instance does for itself.
    """

    def __init__(self, client: Client, description: InstanceDescription) -> None:
        self.calls = client.try_
        self.lifeline = client.lifeline
        self.description = description
        self.parent_id = description.parent_id
        self.later: list[Service] = []
        self.owed: list[Service] = []
        self.link_due = False
        self.token = ""

    @property
    def shown(self) -> tuple[tuple[str, str], ...]:
        """The metadata of what the instance does for itself; without a token of its own the client's is sent."""
        return bearing(self.token)

    async def add(self) -> None:
        """Registers, with the parent and services of the description in the same change. Raises RefusedError."""
        answer = await self._register(self.description)
        if not answer.value:
            raise RefusedError(f"the registration of {self.description.instance_id}", answer)

    async def check(self, deadline: float) -> tuple[Bool, float | None]:
        """One health check: the answer, and in how many seconds the manager wants the next one, where it says so."""
        outcome = await self.lifeline.check(self.description.instance_id, deadline)
        return outcome.answer, outcome.next_check_ms / 1000 or None

    async def add_service(self, service: Service) -> None:
        """Adds one more service. Raises RefusedError."""
        answer = await self._add(service)
        if not answer.value:
            raise RefusedError("the service", answer)
        if service not in self.later:
            self.later.append(service)

    async def add_parent(self, parent_id: str) -> None:
        """Links the instance under a parent, for life. Raises RefusedError."""
        answer = await self._link(parent_id)
        if not answer.value:
            raise RefusedError("the link to the parent", answer)
        self.parent_id = parent_id

    async def renew(self) -> Bool:
        """Registers again under the same id: itself; its later services are owed then, and its link is due.

        Without the parent, which may come back later. Where an earlier try got through, ID_TAKEN is as good as true.
        """
        alone = InstanceDescription()
        alone.CopyFrom(self.description)
        alone.parent_id = ""
        answer = await self._register(alone)
        if not answer.value and answer.reason != REASON_ID_TAKEN:
            return answer
        self.owed, self.link_due = list(self.later), bool(self.parent_id)
        return Bool(value=True)

    async def settle(self) -> None:
        """Adds the services that a renewal still owes; what fails is owed on."""
        while self.owed:
            await self._add(self.owed[0])
            self.owed.pop(0)

    async def relink(self) -> Bool:
        """Links again to the parent of before."""
        answer = await self._link(self.parent_id)
        self.link_due = not answer.value
        return answer

    async def _register(self, description: InstanceDescription) -> Bool:
        """By the client's own token; after a loss of data an instance has none of its own."""
        call = self.calls.TryAddInstance(description)
        answer = await call
        for key, value in await call.trailing_metadata() or ():
            if key == TOKEN and isinstance(value, str):
                self.token = value
        return answer

    async def _add(self, service: Service) -> Bool:
        request = AddServiceRequest(instance_id=self.description.instance_id, service=service)
        return await self.calls.TryAddService(request, metadata=self.shown)

    async def _link(self, parent_id: str) -> Bool:
        request = AddChildRequest(parent_id=parent_id, child_id=self.description.instance_id)
        return await self.calls.TryAddChild(request, metadata=self.shown)
