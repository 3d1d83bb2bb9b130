"""The principal of the call that is being handled: set by the gate, for whoever tells who did something."""

from contextvars import ContextVar

from manager.domain.principal import Principal

CALLING: ContextVar[Principal | None] = ContextVar("calling", default=None)


def calling() -> Principal | None:
    """Who calls; None where callers are not asked who they are. Each call is a task, with a context of its own."""
    return CALLING.get()
