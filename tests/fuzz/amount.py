"""How much is tried, and from which seed: little in the suite, a million by `make fuzz`."""

import os
from random import Random

SEED = int(os.environ.get("IM_FUZZ_SEED", "8"))
INPUTS = int(os.environ.get("IM_FUZZ_INPUTS", "20000"))  # to decoders, in this process
REQUESTS = int(os.environ.get("IM_FUZZ_REQUESTS", "500"))  # to a manager in a process of its own, each way of asking
CONNECTIONS = int(os.environ.get("IM_FUZZ_CONNECTIONS", "150"))  # that are bad, to each of its ports
LONG = CONNECTIONS >= 5_000


def chance(*of: object) -> Random:
    """The same numbers for the same purpose, in every run of one seed."""
    return Random(f"{SEED} {of}")
