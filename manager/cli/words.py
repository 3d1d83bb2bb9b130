"""What people read in the place of numbers: ages, sizes, states with their signs."""

from datetime import UTC, datetime, timedelta

from manager.cli.encoding import unicode
from manager.pb.instance_manager_pb2 import (
    ADDED,
    CHILD_ADDED,
    PARENT_ADDED,
    REMOVED,
    SERVICE_ADDED,
    STATUS_DEAD,
    STATUS_HEALTHY,
    STATUS_STALE,
    Cause,
    InstanceType,
    InstanceUpdate,
    Service,
    ServiceType,
    Status,
)

GOOD, DOUBTFUL, BAD, NONE = "●", "◐", "✕", "○"
SIGNS = {STATUS_HEALTHY: GOOD, STATUS_STALE: DOUBTFUL, STATUS_DEAD: BAD}
# for terminals that know no others
PLAIN_SIGNS = {GOOD: "+", DOUBTFUL: "~", BAD: "!", NONE: "."}
RELATED = {CHILD_ADDED: "child", PARENT_ADDED: "parent"}
STEPS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def status(of: Status.ValueType) -> str:
    """The state with its sign, which the terminal may colour."""
    return signed(SIGNS[of], status_name(of)) if of in SIGNS else ""


def signed(sign: str, word: str) -> str:
    """A word behind its sign, as far as stdout can write it."""
    return f"{sign if unicode() else PLAIN_SIGNS[sign]} {word}"


def status_name(of: Status.ValueType) -> str:
    """The state, as one writes it on the command line too."""
    return Status.Name(of).removeprefix("STATUS_").lower()


def cause(of: Cause.ValueType) -> str:
    """Why it died; nothing for the living."""
    return Cause.Name(of).removeprefix("CAUSE_").lower().replace("_", " ") if of else ""


def kind(of: InstanceType.ValueType) -> str:
    """The type by its name; by its number where this release does not know it."""
    return InstanceType.Name(of) if of in InstanceType.values() else str(of)


def service(of: Service) -> str:
    """What is offered, and where, as `imctl service` takes it."""
    name = ServiceType.Name(of.service_type) if of.service_type in ServiceType.values() else str(of.service_type)
    host = f"[{of.host}]" if ":" in of.host else of.host
    return f"{name}={host}:{of.port}{of.path}"


def span(of: timedelta) -> str:
    """How long, in the largest two units that say something: 3d4h, 5m2s, 12s."""
    left = max(0, round(of.total_seconds()))
    parts: list[str] = []
    for size, unit in STEPS:
        number, left = divmod(left, size)
        if number or (parts and len(parts) < 2):
            parts.append(f"{number}{unit}")
    return "".join(each for each in parts[:2] if not each.startswith("0") or len(parts) == 1) or "0s"


def ago(since: datetime | None) -> str:
    """How long ago, by this machine's clock."""
    return "" if since is None else f"{span(datetime.now(UTC) - since)} ago"


def size(of: float) -> str:
    """Bytes, in the unit that fits."""
    for unit in UNITS:
        if of < 1024 or unit == UNITS[-1]:
            return f"{of:.0f} {unit}" if unit == "B" else f"{of:.1f} {unit}"
        of /= 1024
    raise AssertionError


def detail(of: InstanceUpdate) -> str:
    """What an event says beyond its kind."""
    if of.event_type == SERVICE_ADDED:
        return service(of.service)
    if of.event_type in RELATED:
        return f"{RELATED[of.event_type]} {of.related_id}"
    if of.event_type == ADDED:
        parent = [f"parent {of.instance.parent_id}"] if of.instance.parent_id else []
        return " ".join((*parent, *map(service, of.instance.services)))
    if of.event_type != REMOVED:
        return ""
    root = of.root_cause_id
    return cause(of.cause) + (f" (root cause {root})" if root and root != of.instance_id else "")
