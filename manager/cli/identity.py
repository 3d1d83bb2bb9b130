"""Ids as people write them: in full, or as much of the beginning or the end as is unique among the living."""

from collections.abc import Sequence
from uuid import UUID

import typer

from manager.cli import words
from manager.cli.codes import Exit
from manager.cli.living import living
from manager.cli.say import say, say_more
from manager.cli.table import aligned
from manager.client import Client
from manager.pb.fleet_pb2 import EventFilter
from manager.pb.instance_manager_pb2 import REMOVED, STATUS_DEAD, InstanceDescription

DIGITS = set("0123456789abcdef")
SHOWN = 20
PAGES = 10


async def whole(client: Client, written: Sequence[str], *, dead: bool = False) -> list[str]:
    """The ids that are meant, in their order. With `dead`, whoever died lately may be meant where no one alive is.

    Exits where one is none, fits nobody, or fits several: these are listed, the code is 2.
    """
    read = [normal(each) for each in written]
    if all(len(each) == 32 for each in read):
        return [str(UUID(each)) for each in read]
    fleet = (await living(client)).instances
    found = [[] if len(part) == 32 else matching(part, fleet) for part in read]
    if dead and any(not alive and len(part) < 32 for part, alive in zip(read, found, strict=True)):
        gone = await lately_dead(client)
        found = [alive or matching(part, gone) for part, alive in zip(read, found, strict=True)]
    return [
        str(UUID(part)) if len(part) == 32 else the_one(text, fitting)
        for text, part, fitting in zip(written, read, found, strict=True)
    ]


async def whole_one(client: Client, written: str, *, dead: bool = False) -> str:
    """The one id that is meant."""
    return (await whole(client, [written], dead=dead))[0]


async def lately_dead(client: Client) -> list[InstanceDescription]:
    """The last ones that died, as they were; some thousands, as far as the history is kept."""
    wanted = EventFilter(event_types=[REMOVED], page_size=1_000)
    found: list[InstanceDescription] = []
    for _ in range(PAGES):
        page = await client.fleet.ListEvents(wanted)
        found += [event.update.instance for event in page.events]
        wanted.page_token = page.next_page_token
        if not page.next_page_token:
            break
    for one in found:
        one.status = STATUS_DEAD
    return found


def normal(text: str) -> str:
    """Its hexadecimal digits; exits where it is no part of an id."""
    digits = text.lower().replace("-", "")
    if not digits or len(digits) > 32 or not set(digits) <= DIGITS:
        say(f"{text!r} is no id", "write a UUID, or the beginning or the end of one, as `imctl get` shows them")
        raise typer.Exit(Exit.USAGE)
    return digits


def matching(part: str, fleet: Sequence[InstanceDescription]) -> list[InstanceDescription]:
    """Whose id begins or ends so: ids of version 7 that were made together begin alike."""
    pairs = ((one.instance_id.replace("-", ""), one) for one in fleet)
    return [one for digits, one in pairs if digits.startswith(part) or digits.endswith(part)]


def the_one(text: str, found: Sequence[InstanceDescription]) -> str:
    """Its id, where there is just one."""
    if len(found) == 1:
        return found[0].instance_id
    if not found:
        say(f"no id begins or ends with {text!r}", "`imctl get` lists the living, `imctl events` those who were")
        raise typer.Exit(Exit.NOT_FOUND)
    say(f"{len(found)} ids begin or end with {text!r}", "write more of the one that is meant:")
    rows = [(one.instance_id, words.status(one.status), words.kind(one.instance_type), one.hostname) for one in found]
    for line in aligned(rows[:SHOWN]):
        say_more(line)
    if len(found) > SHOWN:
        say_more(f"and {len(found) - SHOWN} more")
    raise typer.Exit(Exit.USAGE)
