"""GetInstancesAt and Diff: pages of the past, each of one moment, whatever changes meanwhile."""

from typing import Any
from uuid import UUID

from manager.domain.filter import PAGE_LIMIT, Cursor, ResumeToken
from manager.domain.past import Moment, Point, Step
from manager.domain.refusals import EpochChanged, Exhausted, InvalidRequest
from manager.pb import fleet_pb2 as pb
from manager.pb.instance_manager_pb2 import InstanceList
from manager.repository import past
from manager.repository.database import Readers
from manager.wire import decode, encode, moments
from manager.wire.get_service import BYTES_LIMIT, fill


async def instances_at(readers: Readers, request: pb.InstancesAtRequest) -> InstanceList:
    """The fleet at a moment, or a page of it."""
    moment, wanted = moments.moment_at(request), decode.wanted(request)
    size, cursor = decode.page(request, wanted)
    async with readers.snapshot() as connection:
        if cursor is None:
            found, after = await past.point(connection, moment), None
        else:
            found, after = await _again(connection, cursor.begun.epoch, cursor.begun.revision), cursor.after
        page = InstanceList(revision=found.revision)
        most = size or PAGE_LIMIT
        instances = past.lived(connection, wanted, revision=found.revision, after=after, most=most)
        last = await fill(page, instances, most)
    if last is not None and not size:
        raise Exhausted(f"more than {PAGE_LIMIT} instances or {BYTES_LIMIT >> 20} MiB match: use page_size")
    if last is not None:
        page.next_page_token = encode.page_token(Cursor(last, ResumeToken(found.epoch, found.revision, 0, 0)), wanted)
    return page


async def diff(readers: Readers, request: pb.DiffRequest) -> pb.InstanceDiff:
    """Who is different at one moment from what it was at an earlier one, or a page of them."""
    both, (size, step) = moments.both(request), moments.diff_page(request)
    async with readers.snapshot() as connection:
        if step is None:
            first, last = [await past.point(connection, each) for each in both]
            if first.revision > last.revision:
                raise InvalidRequest(both[1].field, "must not be before the moment that it is compared with")
        else:
            first, last = [await _again(connection, step.epoch, each) for each in (step.first, step.last)]
        answer = pb.InstanceDiff(from_revision=first.revision, to_revision=last.revision)
        page, room, after = answer.differences, BYTES_LIMIT, None if step is None else step.after
        async for each in past.differences(connection, first.revision, last.revision, after=after, most=size):
            message = page.add()
            encode.difference(each, message)
            room -= message.ByteSize() + 8
            if after is not None and len(page) > 1 and (room < 0 or len(page) > size):
                del page[-1]
                answer.next_page_token = encode.diff_token(Step(first.epoch, after, first.revision, last.revision))
                break
            after = each.id
    return answer


async def _again(connection: Any, epoch: UUID, revision: int) -> Point:
    """The moment of a page before this one; it may have been forgotten meanwhile, or be of a history that is lost."""
    found = await past.point(connection, Moment(revision, None, "page_token"))
    if found.epoch != epoch:
        raise EpochChanged("the page_token is of another history of the database: ask again from the beginning")
    return found
