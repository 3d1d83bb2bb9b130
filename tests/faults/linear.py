"""Whether there is an order at all: a search by instance that looks at no revision (Wing and Gong, with Lowe's memory).

So a wrong revision cannot hide a wrong answer. Of an instance it knows whether it is absent, alive, killed or dead
otherwise; a death that nobody asked for may come at any time, where the history has one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from manager.pb import instance_manager_pb2 as pb
from tests.faults.record import Operation, by_instance
from tests.stream.plain import Fact

ABSENT, ALIVE, KILLED, DEAD = range(4)
FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Step:
    """What takes one state to another, at a moment between its two times."""

    begun: float
    ended: float
    allowed: tuple[tuple[int, int], ...]
    optional: bool = False


def violations(operations: Sequence[Operation], history: Sequence[Fact]) -> Iterator[str]:
    """The instances of which no order explains what was answered."""
    fates = {each.instance: each.cause for each in history if each.type == pb.REMOVED}
    for instance, some in by_instance(operations).items():
        steps = [step for each in some if (step := _step(each)) is not None]
        if fates.get(instance, pb.CAUSE_KILLED) != pb.CAUSE_KILLED:
            steps.append(Step(0.0, FOREVER, ((ALIVE, DEAD),), optional=True))
        if not linearizable(steps):
            yield f"{instance}: {some}"


def _step(operation: Operation) -> Step | None:
    """What the operation says of its instance; None for nothing."""
    ended = FOREVER if operation.returned is None else operation.returned
    unknown = operation.returned is None
    allowed: tuple[tuple[int, int], ...]
    match operation.call.method, operation.value, operation.reason:
        case "add", _, _ if unknown:
            allowed = ((ABSENT, ALIVE),)
        case "kill", _, _ if unknown:
            allowed = ((ALIVE, KILLED),)
        case _ if unknown:
            return None
        case "add", True, _:
            allowed = ((ABSENT, ALIVE), (ALIVE, ALIVE))
        case "kill", True, _:
            allowed = ((ALIVE, KILLED), (KILLED, KILLED))
        case "check" | "get" | "offer", True, _:
            allowed = ((ALIVE, ALIVE),)
        case "kill", False, pb.REASON_DEAD:
            allowed = ((DEAD, DEAD),)
        case "add" | "check" | "offer", False, pb.REASON_DEAD:
            allowed = ((KILLED, KILLED), (DEAD, DEAD))
        case "kill" | "check" | "offer", False, pb.REASON_UNKNOWN_INSTANCE:
            allowed = ((ABSENT, ABSENT),)
        case _:
            return None
    return Step(operation.called, ended, allowed, optional=unknown)


def linearizable(steps: Iterable[Step]) -> bool:
    """Whether the steps can be put in an order that keeps to their times, from an absent instance on."""
    ordered = sorted(steps, key=lambda each: each.begun)
    everything = (1 << len(ordered)) - 1
    needed = everything & ~sum(1 << number for number, each in enumerate(ordered) if each.optional)
    seen: set[tuple[int, int]] = set()
    stack = [(0, ABSENT)]
    while stack:
        done, state = stack.pop()
        if done & needed == needed:
            return True
        horizon = FOREVER
        for number, each in enumerate(ordered):
            if done >> number & 1:
                continue
            if each.begun > horizon:
                break
            for before, after in each.allowed:
                following = (done | 1 << number, after)
                if before == state and following not in seen:
                    seen.add(following)
                    stack.append(following)
            horizon = min(horizon, each.ended)
    return False
