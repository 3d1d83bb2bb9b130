"""A request of HTTP, as far as it says who asks."""

from collections.abc import Iterable, Mapping

from starlette.requests import Request

from manager.wire.framing import address


class Headed:
    """A request of HTTP, as a call that is asked who makes it."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def invocation_metadata(self) -> Iterable[tuple[str, str]]:
        """The headers."""
        return self._request.headers.items()

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Browsers are not asked for certificates."""
        return {}

    def peer(self) -> str:
        """Who asks, as gRPC would have it."""
        client = self._request.client
        return address((client.host, client.port) if client else None)
