"""The recorded answers, judged by the history: each must have been true at a moment between call and return.

The history gives every change its revision, so that a moment is a revision: not before the last one that was
answered before the call, and not after the first one that was asked for after the return.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from manager.pb import instance_manager_pb2 as pb
from tests.faults.record import CHANGES, Call, Operation
from tests.stream.plain import Fact

NEVER = 2**62


@dataclass
class Life:
    """What the history says of one instance, by revisions; NEVER for what did not happen."""

    added: int = NEVER
    died: int = NEVER
    cause: int = 0
    parent: str = ""
    linked: int = NEVER
    services: dict[str, int] = field(default_factory=dict)
    silent: bool = False


def lives(history: Sequence[Fact]) -> dict[str, Life]:
    """All instances of the history."""
    found: dict[str, Life] = {}
    for fact in history:
        life = found.setdefault(fact.instance, Life())
        match fact.type:
            case pb.ADDED:
                life.added = min(life.added, fact.revision)
                for each in (fact.after or {}).get("services", ()):
                    life.services.setdefault(str(each["port"]), fact.revision)
            case pb.REMOVED:
                life.died, life.cause = fact.revision, fact.cause
            case pb.PARENT_ADDED:
                life.parent, life.linked = fact.related, fact.revision
            case pb.SERVICE_ADDED if fact.service:
                life.services.setdefault(str(fact.service[2]), fact.revision)
            case pb.STALE:
                life.silent = True
    return found


@dataclass(frozen=True)
class Window:
    """The revisions as of which an operation may have been answered."""

    low: int
    high: int

    def before(self, revision: int) -> bool:
        """Whether it may have been answered before that change."""
        return self.low < revision

    def since(self, revision: int) -> bool:
        """Whether it may have been answered after it."""
        return revision <= self.high and revision != NEVER


class Windows:
    """The window of each operation, from the order in which calls were made and answered."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        changes = [each for each in operations if each.revision and each.returned is not None]
        answered = sorted((each.returned or 0.0, each.revision) for each in changes)
        self._returned = [at for at, _ in answered]
        self._highest = list(accumulate((revision for _, revision in answered), max))
        # a repeat gives an old revision, also of a call that nobody answered, and says nothing of what was new then
        begun = _first(operations)
        asked = sorted((_begun(each.call, begun), each.revision) for each in changes)
        self._called = [at for at, _ in asked]
        self._lowest = list(accumulate((revision for _, revision in reversed(asked)), min))[::-1]

    def of(self, operation: Operation) -> Window:
        """Its window; open above where nobody knows when it was answered."""
        answered = bisect_left(self._returned, operation.called)
        low = self._highest[answered - 1] if answered else 0
        if operation.returned is None:
            return Window(low, NEVER)
        asked = bisect_right(self._called, operation.returned)
        return Window(low, self._lowest[asked] - 1 if asked < len(self._lowest) else NEVER)


def violations(operations: Sequence[Operation], history: Sequence[Fact]) -> Iterator[str]:
    """Answers that were true at no moment of their calls, and changes that were not made in their order."""
    known, windows = lives(history), Windows(operations)
    asked = _first(operations)
    first: dict[tuple[Call, int], Operation] = {}
    for each in sorted(operations, key=lambda each: each.called):
        if each.returned is None:
            continue
        window = windows.of(each)
        if each.value and each.call.method in CHANGES:
            made = first.setdefault((each.call, each.revision), each)
            if made is each and _begun(each.call, asked) >= each.called and each.revision <= window.low:
                yield f"{each} has a revision from before it was asked for"
        if not _explained(each, window, known):
            yield f"{each} was true at no moment from {window.low} to {window.high}"


def _first(operations: Sequence[Operation]) -> dict[Call, float]:
    """When each call was made for the first time."""
    found: dict[Call, float] = {}
    for each in operations:
        found[each.call] = min(each.called, found.get(each.call, each.called))
    return found


def _begun(call: Call, asked: dict[Call, float]) -> float:
    """When somebody asked for the same for the first time; a child may also have been registered with its parent."""
    same = (call, Call("add", call.other, call.instance)) if call.method == "link" else (call,)
    return min(asked.get(each, NEVER) for each in same)


def _explained(operation: Operation, window: Window, known: dict[str, Life]) -> bool:
    call, life = operation.call, known.get(operation.call.instance, Life())
    if operation.value:
        return _held(operation, window, life, known)
    match operation.reason:
        case pb.REASON_UNKNOWN_INSTANCE:
            other = known.get(call.other, Life()) if call.method == "link" else life
            return window.before(life.added) or window.before(other.added)
        case pb.REASON_DEAD:
            other = known.get(call.other, Life()) if call.method == "link" else life
            return window.since(life.died) or window.since(other.died)
        case pb.REASON_UNKNOWN_PARENT:
            return window.before(known.get(call.other, Life()).added)
        case pb.REASON_PARENT_DEAD:
            return window.since(known.get(call.other, Life()).died)
        case pb.REASON_HAS_PARENT:
            child = known.get(call.other, Life())
            return window.since(child.linked) and child.parent != call.instance
        case pb.REASON_CYCLE:
            return call.other in _above(call.instance, window, known)
    if call.method == "check":  # a freshly restored database does not know it
        return operation.status == "FAILED_PRECONDITION" and window.before(life.added)
    # a read that found nothing: it is not there, or silent
    return window.before(life.added) or window.since(life.died) or life.silent


def _held(operation: Operation, window: Window, life: Life, known: dict[str, Life]) -> bool:
    call, revision = operation.call, operation.revision
    alive = window.since(life.added) and window.before(life.died)
    match call.method:
        case "add":
            linked = not call.other or (life.parent == call.other and life.linked == life.added)
            return revision == life.added and linked and window.before(life.died)
        case "kill":
            return revision == life.died and life.cause == pb.CAUSE_KILLED
        case "link":
            child = known.get(call.other, Life())
            return child.parent == call.instance and child.linked == revision and window.since(revision)
        case "offer":
            return life.services.get(call.other) == revision and alive
    return alive


def _above(instance: str, window: Window, known: dict[str, Life]) -> set[str]:
    """The instance, and all that it may have been under."""
    found: set[str] = set()
    while instance and instance not in found:
        found.add(instance)
        life = known.get(instance, Life())
        instance = life.parent if window.since(life.linked) else ""
    return found
