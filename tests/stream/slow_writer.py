"""`python -m tests.stream.slow_writer URL`: a writer in a process of its own, which stays in its turn until stdin ends.

It says `taken` once it has its turn, and in the end `committed` or `lost`.
"""

import asyncio
import sys

from manager.repository.database import Session, engine_of, refusal_of
from manager.repository.turn import turn
from tests.stream.changes import held


async def main(url: str) -> None:
    session = Session(engine_of(url, name="slow writer"))
    try:
        async with session.use() as connection, turn(connection) as present:
            held(present)
            print("taken", flush=True)
            await asyncio.to_thread(sys.stdin.read)
    except Exception as error:
        if refusal_of(error) is None:
            raise
        print("lost", flush=True)
    else:
        print("committed", flush=True)
    finally:
        await session.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
