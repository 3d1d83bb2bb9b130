"""Proves that every earlier version of the contract that the server still accepts is wire-compatible with this one."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Runs `buf breaking` against the image of each accepted release."""
    buf = Path(sys.executable).parent / "buf"
    lines = (HERE / "compatible_versions").read_text().splitlines()
    releases = [line.split()[1] for line in lines if line.strip() and not line.startswith("#")]
    for release in releases:
        image = HERE / "released" / f"{release}.binpb"
        if not image.exists():
            raise SystemExit(f"proto/compatible_versions names {release}, but {image.name} is not in proto/released")
        if subprocess.run([buf, "breaking", "--against", image], cwd=HERE.parent, check=False).returncode:
            raise SystemExit(f"the contract is no longer compatible with {release}")


if __name__ == "__main__":
    main()
