"""What a shell offers for an id: those that are alive, if the manager tells within a moment."""

import asyncio
from typing import Any

MOMENT = 0.3
MOST = 200


def live_ids(incomplete: str) -> list[tuple[str, str]]:
    """Ids that begin so, each with a word on what it is; nothing where that takes too long."""
    try:
        return asyncio.run(_live_ids(incomplete))
    except Exception:  # there is nobody to tell: a shell is waiting
        return []


async def _live_ids(incomplete: str) -> list[tuple[str, str]]:
    from manager.cli import words
    from manager.cli.connection import Connection
    from manager.client import Client
    from manager.pb.instance_manager_pb2 import InstanceFilter

    target = Connection().target()
    async with asyncio.timeout(MOMENT), Client(*target.addresses, access=target.access) as client:
        wanted = InstanceFilter(id_prefix=incomplete.lower(), page_size=MOST)
        found = await client.get.GetAllInstances(wanted, timeout=MOMENT)
    return [(one.instance_id, f"{words.kind(one.instance_type)} {one.hostname}") for one in found.instances]


# of every argument that is an id
ID: dict[str, Any] = {"autocompletion": live_ids}
