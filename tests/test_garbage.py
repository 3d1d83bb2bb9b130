"""A server's cyclic garbage."""

import subprocess
import sys

CYCLES = """
from weakref import WeakSet
from manager.garbage import YOUNG, spare

class Node:
    pass

spare()
alive = WeakSet()
for _ in range(3 * YOUNG):
    node = Node()
    node.itself = node
    alive.add(node)
print(len(alive), YOUNG)
"""


def test_cycles_are_still_found_where_the_collector_is_spared() -> None:
    ran = subprocess.run([sys.executable, "-c", CYCLES], capture_output=True, text=True, check=True)
    alive, young = map(int, ran.stdout.split())
    assert 0 < alive < 2 * young
