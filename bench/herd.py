"""`python -m bench.herd ADDRESS,... COUNT TIMEOUT`: so many instances that check their health, see tests.faults.herd.

They say `ready` on stdout once all are registered. Each line on stdin is a command: `take` answers with what happened
since the last one, as JSON: the latencies of the checks (seconds), failures by their codes, how many were told to end,
and how long ago the one that was renewed longest ago was; `end` ends.
"""

import asyncio
import json
import sys
from time import monotonic

from tests.faults.herd import Herd


async def main(addresses: str, count: int, timeout: float) -> None:
    """Registers, and obeys."""
    async with Herd(addresses.split(","), timeout) as herd:
        await herd.gather(count)
        print("ready", flush=True)
        while (await asyncio.to_thread(sys.stdin.readline)).strip() == "take":
            oldest = monotonic() - min(each.renewed_at for each in herd.members)
            told = sum(bool(each.told_to_end) for each in herd.members)
            taken = {"latencies": herd.latencies[:], "failures": dict(herd.answers), "told": told, "oldest": oldest}
            herd.latencies.clear()
            herd.answers.clear()
            print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
