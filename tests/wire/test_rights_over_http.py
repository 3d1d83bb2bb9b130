"""HTTP goes through the same table as gRPC: every method that it carries, every role, every target, and nobodies."""

from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor

from manager.presence import new_id
from manager.wire.connect import CODES
from tests.wire.asker import Reply, ask, first_of
from tests.wire.caller import LEAK, METHODS, VERSION, path
from tests.wire.guarded import EVERY_ROLE, TARGETS, Code, Guarded, cases, expected, headed, nobodies, sent

CARRIED = [each for each in METHODS if not each.client_streaming]
CODECS = ("proto", "json")
STATUS = {Code.OK: 200, Code.NOT_FOUND: 404, Code.UNAUTHENTICATED: 401, Code.PERMISSION_DENIED: 403}
END = "2"  # the flags of the last frame of a stream, which says how it ended


async def answered(address: str, method: MethodDescriptor, request: Any, codec: str, **shown: str) -> Reply:
    """The answer of a method by Connect, or the first one."""
    written = json_format.MessageToJson(request).encode() if codec == "json" else request.SerializeToString()
    kind = f"application/connect+{codec}" if method.server_streaming else f"application/{codec}"
    headers = {"content_type": kind, "proto_version": VERSION[0][1], **shown}
    return await (first_of if method.server_streaming else ask)(address, path(method), written, **headers)


def ended(method: MethodDescriptor, answer: Reply) -> tuple[int, str]:
    """The status and the code with which a call ended; `ok` where it was answered."""
    if answer.status == 200 and answer.headers.get("flags") != END:
        return 200, "ok"
    told = answer.json["error"] if method.server_streaming and answer.status == 200 else answer.json
    assert LEAK.search(told["message"]) is None, told
    return answer.status, told["code"]


def over_http(method: MethodDescriptor, code: Code) -> tuple[int, str]:
    """How Connect has it: a stream begins well, and says in its last frame how it ended."""
    return 200 if method.server_streaming else STATUS[code], "ok" if code is Code.OK else CODES[code].value


@pytest.mark.parametrize("method", CARRIED, ids=path)
async def test_every_role_may_do_over_http_what_it_may_by_grpc_and_nothing_else(
    guarded: Guarded, method: MethodDescriptor
) -> None:
    found = {}
    for each in await cases(guarded, method):
        for codec in CODECS:
            answer = await answered(guarded.http, method, each.request, codec, **headed(each.token))
            found[each.role, each.target, codec] = ended(method, answer)
    assert found == {key: over_http(method, expected(key[0], method.name, key[1])) for key in found}
    assert len(found) == len(EVERY_ROLE) * len(TARGETS) * len(CODECS)


@pytest.mark.parametrize("method", CARRIED, ids=path)
async def test_nobody_may_do_anything_over_http_nor_learns_whether_it_is_there(
    guarded: Guarded, method: MethodDescriptor
) -> None:
    one, other = await guarded.fleet.add(), await guarded.fleet.add()
    for who, shown in await nobodies(guarded):
        headers = {"authorization": shown} if shown else {}
        said = set()
        for about in (one, str(new_id())):
            for codec in CODECS:
                answer = await answered(guarded.http, method, sent(method, about, other), codec, **headers)
                assert ended(method, answer) == over_http(method, Code.UNAUTHENTICATED), who
                assert "imt_" not in answer.text
                said.add(answer.body)
        assert len(said) == 1, who
