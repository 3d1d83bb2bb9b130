"""The scripts of deploy/ are run as they are: from their own folder, which is no package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy"))
