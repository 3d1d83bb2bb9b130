"""The native load client: compiled on the spot, fed with messages that are encoded before."""

import asyncio
import json
import shutil
import subprocess
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("load.cpp")
BINARY = SOURCE.parent.parent / "build" / "load"
NEEDED = "the benchmarks need a C++ compiler, libnghttp2 and OpenSSL: apt-get install g++ libnghttp2-dev libssl-dev"


@dataclass(frozen=True)
class Loaded:
    """How a load went. `cpu` is the client's own, in seconds; `ms` are percentiles of the latency."""

    sent: int
    ok: int
    answers: int
    events: int
    bytes: int
    seconds: float
    unanswered: int
    cpu: float
    failures: Mapping[str, int]
    ms: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.ok / self.seconds if self.seconds else 0.0


def compiled() -> Path:
    """The client; exits with a line that says what to install where it cannot be built."""
    if not BINARY.exists() or BINARY.stat().st_mtime < SOURCE.stat().st_mtime:
        BINARY.parent.mkdir(exist_ok=True)
        compiler = shutil.which("g++")
        if not compiler:
            raise SystemExit(NEEDED)
        made = subprocess.run(
            [compiler, "-O2", "-std=c++17", "-o", BINARY, SOURCE, "-lnghttp2", "-lssl", "-lcrypto"], check=False
        )
        if made.returncode:
            raise SystemExit(NEEDED)
    return BINARY


async def load(target: str, path: str, messages: Iterable[bytes], **options: object) -> Loaded:
    """Sends each message once, or as the options of load.cpp say; raises where the client itself failed."""
    with framed(messages) as file:
        process = await _begun(target, path, file, options)
        return await _ended(process)


@asynccontextmanager
async def watching(
    target: str, path: str, request: bytes, **options: object
) -> AsyncIterator[Callable[[], Awaitable[Loaded]]]:
    """Subscribers, once all are connected. What is yielded waits until each has as many events as `until` says."""
    with framed([request]) as file:
        process = await _begun(target, path, file, {"mode": "watch", "loop": True, **options})
        try:
            assert process.stdout
            async with asyncio.timeout(60):
                if await process.stdout.readline() != b"ready\n":
                    raise RuntimeError("the subscribers did not get through")
            yield lambda: _ended(process)
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()


@contextmanager
def framed(messages: Iterable[bytes]) -> Iterator[str]:
    """A file of them as gRPC frames them; its path."""
    with tempfile.NamedTemporaryFile() as file:
        for each in messages:
            file.write(b"\0" + len(each).to_bytes(4) + each)
        file.flush()
        yield file.name


async def _begun(target: str, path: str, file: str, options: Mapping[str, object]) -> Process:
    words = ["--target", target, "--path", path, "--messages", file]
    for name, value in options.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return await asyncio.create_subprocess_exec(compiled(), *words, stdout=asyncio.subprocess.PIPE)


async def _ended(process: Process) -> Loaded:
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load client ended with {process.returncode}")
    return Loaded(**json.loads(out.splitlines()[-1]))
