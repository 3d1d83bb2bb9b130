"""Whoever asks questions of the embedded server stands back, and nobody else does."""

import os
import subprocess
import sys
import time
from contextlib import closing
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


def used(pid: int) -> float:
    """Seconds of CPU."""
    return float(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@pytest.mark.skipif(sys.platform != "linux", reason="groups are Linux's")
def test_whoever_is_held_gets_a_tenth_of_a_core_until_it_is_let_go() -> None:
    burning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with closing(niceness.Allowance("im-0123456789-im_auditor")) as allowance:
            if not allowance.holds:
                pytest.skip("this system lets us make no group of processes")
            allowance.hold(burning.pid)
            time.sleep(0.2)
            before = used(burning.pid)
            time.sleep(1)
            assert used(burning.pid) - before < 0.2
            allowance.hold(2**22 + 1)  # which is nobody
        before = used(burning.pid)
        time.sleep(1)
        assert used(burning.pid) - before > 0.2
        assert not [each for root in niceness.GROUPS for each in root.glob("im-0123456789*")]
    finally:
        burning.kill()
        burning.wait()


def test_where_there_can_be_no_group_nobody_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(niceness, "GROUPS", (tmp_path, tmp_path / "nowhere"))
    with closing(niceness.Allowance("im-0123456789-im_auditor")) as allowance:
        assert not allowance.holds
        allowance.hold(os.getpid())
    assert not list(tmp_path.iterdir())
