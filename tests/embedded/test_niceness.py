"""Whoever asks questions of the embedded server stands back, and nobody else does."""

import os
import sys
from pathlib import Path

import asyncpg
import pytest

from manager.embedded import niceness, start


@pytest.mark.skipif(sys.platform != "linux", reason="titles and sessions are Linux's")
async def test_what_works_for_the_auditor_stands_back_and_nothing_else(bin_dir: Path | None) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with start(ephemeral=True, bin_dir=bin_dir, durable=False) as postgres:
        admin = await asyncpg.connect(postgres.url())
        await admin.execute("create role im_auditor")
        await postgres.grant_login("im_auditor")
        auditor = await asyncpg.connect(postgres.url("im_auditor"))
        found = niceness.of_role(postgres.process.pid, "im_auditor")
        assert found == [auditor.get_server_pid()]
        for each in found:
            niceness.stand_back(each, min(own + 1, 19))
        assert os.getpriority(os.PRIO_PROCESS, found[0]) == min(own + 1, 19)
        assert os.getpriority(os.PRIO_PROCESS, admin.get_server_pid()) == own
        niceness.stand_back(found[0], own)
        assert os.getpriority(os.PRIO_PROCESS, found[0]) == min(own + 1, 19)
        for each in (admin, auditor):
            await each.close()
