"""Bundles `console/` into `manager/console`; `--check` only says whether the bundle is of these sources.

The bundle is committed, so that nobody needs Node.js to install or to run the server. `--check` compares a digest of
the sources and needs nothing either; a test builds it all anew, and compares what comes of it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "manager" / "console"
SOURCES = ("build.mjs", "package.json", "package-lock.json", "index.html", "icon.svg", "src/*")
STAMP = "sources.sha256"


def digest() -> str:
    """SHA-256 over all sources and their names."""
    paths = sorted(path for pattern in SOURCES for path in HERE.glob(pattern))
    content = b"".join(f"{path.relative_to(HERE)}\0".encode() + path.read_bytes() for path in paths)
    return hashlib.sha256(content).hexdigest()


def bundle(out: Path) -> None:
    """Installs what the lock names, and writes the bundle into `out`, which must not be there yet."""
    here = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "console"
        shutil.copytree(HERE, copy, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
        install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
        subprocess.run(install, cwd=copy, env=here, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["node", "build.mjs", str(out)], cwd=copy, env=here, check=True)
    (out / STAMP).write_text(digest() + "\n")


def main() -> None:
    """Rewrites the bundle, or with --check fails when it is of other sources."""
    if "--check" in sys.argv:
        stamp = OUT / STAMP
        if not stamp.exists() or stamp.read_text().strip() != digest():
            raise SystemExit("manager/console is stale: run `make console` and commit the result")
        return
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "console"
        bundle(fresh)
        shutil.rmtree(OUT, ignore_errors=True)
        shutil.copytree(fresh, OUT)


if __name__ == "__main__":
    main()
