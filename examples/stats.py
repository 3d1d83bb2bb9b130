"""Uploads the memory of a host, and reads it back. Run it beside `imctl dev`: python examples/stats.py [ADDRESS]"""

import asyncio
import sys
import time

from manager.client import Access, Client
from manager.pb.stats_service_pb2 import GetStatsRequest, Stats, StatsUploadRequest


async def main(address: str) -> None:
    async with Client(address, access=Access.of_environment()) as client:
        stats = Stats(used_memory_bytes=1000, total_memory_bytes=2000, timestamp_ms=time.time_ns() // 1_000_000)
        uploaded = await client.stats.UploadStats(StatsUploadRequest(hostname="testing", stats=stats))
        print(f"RESPONSE={uploaded}")
        response = await client.stats.GetStats(GetStatsRequest(hostname="testing"))
        print(f"RESPONSE={response}")


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "[::1]:50052"))
