"""The collector of cyclic garbage, as a server needs it."""

import gc

# Objects that a process makes before it looks for cycles among them. A turn of 2,000 calls makes some tens of
# thousands, nearly all of which die with it: at CPython's 700 they are looked at again and again, which took a seventh
# of the CPU of registrations in one run (bench/RESULTS.md). Each look holds everybody up until what it finds is gone:
# gRPC's own server leaves six objects a call, of which 7,000 are gone in 3 ms, and 50,000 in up to 90.
YOUNG = 7_000


def spare() -> None:
    """Looks rarely, and never again at what there is by now: modules, and whatever else lives as long as the process.

    Older generations keep CPython's rule: they are looked at when they have grown by a quarter.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
