"""Sessions of browsers: the token in a cookie that no script can read and no page of another site can have sent."""

import json

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from manager.domain.refusals import InvalidRequest
from manager.wire.authority import COOKIE, Authority
from manager.wire.headed import Headed

PATH = "/session"
LONGEST = 1024  # bytes of a request


class Session:
    """POST /session with `{"token": "..."}` begins one, DELETE ends it.

    The cookie is the token itself, so that any manager, and any worker, knows it; it lasts as long as the browser does,
    or until the token is revoked. That the page is ours is seen by the guard, from the request's origin.
    """

    def __init__(self, authority: Authority, *, secure: bool) -> None:
        self._authority = authority
        self._secure = secure

    async def change(self, request: Request) -> Response:
        """204, with the cookie set or removed."""
        answer = Response(status_code=204)
        if request.method == "DELETE":
            answer.delete_cookie(COOKIE, path="/", secure=self._secure, httponly=True, samesite="strict")
            return answer
        token = await _token(request)
        await self._authority.know(token, PATH, Headed(request))
        answer.set_cookie(COOKIE, token, path="/", secure=self._secure, httponly=True, samesite="strict")
        return answer


async def _token(request: Request) -> str:
    content = b""
    try:
        async for part in request.stream():
            content += part
            if len(content) > LONGEST:
                raise InvalidRequest("token", "is longer than a token is")
    except ClientDisconnect:
        raise InvalidRequest("token", "has not come whole") from None
    try:
        token = json.loads(content)["token"]
    except (ValueError, KeyError, TypeError, RecursionError):
        token = None
    if not isinstance(token, str):
        raise InvalidRequest("token", "must be text in a JSON object")
    return token
