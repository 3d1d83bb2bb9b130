"""What an instance has told the manager of itself, kept so that it can be told again after a loss of data."""

from manager.client.errors import RefusedError
from manager.pb.instance_manager_pb2 import (
    REASON_ID_TAKEN,
    AddChildRequest,
    AddServiceRequest,
    Bool,
    InstanceDescription,
    Service,
)
from manager.pb.instance_manager_pb2_grpc import TryServiceStub


class Registration:
    """One instance as registered; `link_due` says that its link to the parent has to be made again."""

    def __init__(self, calls: TryServiceStub, description: InstanceDescription) -> None:
        self.calls = calls
        self.description = description
        self.parent_id = description.parent_id
        self.later: list[Service] = []
        self.link_due = False

    async def add(self) -> None:
        """Registers, with the parent and services of the description in the same change. Raises RefusedError."""
        answer = await self.calls.TryAddInstance(self.description)
        if not answer.value:
            raise RefusedError(f"the registration of {self.description.instance_id}", answer)

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
        """Registers again under the same id: itself and its services; the link is due then.

        Without the parent, which may come back later. Where an earlier try got through, ID_TAKEN is as good as true.
        """
        alone = InstanceDescription()
        alone.CopyFrom(self.description)
        alone.parent_id = ""
        answer = await self.calls.TryAddInstance(alone)
        if not answer.value and answer.reason != REASON_ID_TAKEN:
            return answer
        for service in self.later:
            await self._add(service)
        self.link_due = bool(self.parent_id)
        return Bool(value=True)

    async def relink(self) -> Bool:
        """Links again to the parent of before."""
        answer = await self._link(self.parent_id)
        self.link_due = not answer.value
        return answer

    async def _add(self, service: Service) -> Bool:
        request = AddServiceRequest(instance_id=self.description.instance_id, service=service)
        return await self.calls.TryAddService(request)

    async def _link(self, parent_id: str) -> Bool:
        request = AddChildRequest(parent_id=parent_id, child_id=self.description.instance_id)
        return await self.calls.TryAddChild(request)
