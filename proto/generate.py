"""Generates `manager/pb` and `proto_version` from `proto/*.proto`; `--check` only says whether they are current.

The generated files are committed, so that nobody needs a compiler to install or to read them.
"""

import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "manager" / "pb"
SOURCES = sorted(HERE.glob("*.proto"))
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"


def version() -> str:
    """The contract's version: SHA-256 over all proto files, sorted by name."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()


def compatible() -> list[str]:
    """The earlier versions still served."""
    lines = (HERE / "compatible_versions").read_text().splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def generate(out: Path) -> None:
    """Writes stubs, their types and the version module into `out`."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where protoc finds its plugins
    code = protoc.main(
        [
            "protoc",
            f"-I{HERE}",
            f"-I{WELL_KNOWN}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out={out}",
            f"--mypy_grpc_out=only_async:{out}",
            *(str(path) for path in SOURCES),
        ]
    )
    if code:
        raise SystemExit(code)
    for path in out.iterdir():
        # protoc knows of no package: its imports must find their neighbours in manager.pb
        text = path.read_text()
        text = re.sub(r"^import (\w+_pb2)\b", r"from manager.pb import \1", text, flags=re.M)
        text = re.sub(r"^import (\w+_pb2) as", r"from manager.pb import \1 as", text, flags=re.M)
        path.write_text(text)
    accepted = ", ".join(f'"{each}"' for each in [version(), *compatible()])
    (out / "__init__.py").write_text('"""Generated from proto/ by `make proto`; never edited."""\n')
    (out / "version.py").write_text(
        '"""Generated from proto/ by `make proto`; never edited."""\n\n'
        f'PROTO_VERSION = "{version()}"\nACCEPTED = frozenset({{{accepted}}})\n'
    )


def main() -> None:
    """Rewrites the generated files, or with --check fails when they are stale."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        files = {path.name: path.read_bytes() for path in fresh.iterdir()}
    stamp = HERE / "proto_version"
    if "--check" in sys.argv:
        present = {path.name: path.read_bytes() for path in OUT.iterdir() if path.is_file()}
        if present != files or not stamp.exists() or stamp.read_text() != version() + "\n":
            raise SystemExit("manager/pb or proto/proto_version is stale: run `make proto` and commit the result")
        return
    for old in OUT.iterdir():
        if old.is_file():
            old.unlink()
    for name, content in files.items():
        (OUT / name).write_bytes(content)
    stamp.write_text(version() + "\n")


if __name__ == "__main__":
    main()
