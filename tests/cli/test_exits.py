import grpc
import pytest

from manager.cli.codes import Exit
from manager.cli.exits import EXIT_OF_ENDING, EXIT_OF_ERROR, exit_of
from manager.client.errors import ERROR_OF, PRECONDITION_OF
from manager.client.notices import Ending
from tests.client.standin import UNAVAILABLE, Failure, Reply, StandIn, exhausted, invalid, precondition
from tests.processes import imctl


def test_every_ending_has_an_exit_code_of_its_own() -> None:
    assert set(EXIT_OF_ENDING) == set(Ending)
    assert len(set(EXIT_OF_ENDING.values())) == len(Ending)


def test_every_error_of_the_contract_has_an_exit_code() -> None:
    kinds = {*ERROR_OF.values(), *PRECONDITION_OF.values()}
    assert all(any(issubclass(kind, known) for known in EXIT_OF_ERROR) for kind in kinds)
    assert exit_of.__annotations__["return"] is Exit


def test_the_codes_of_endings_clash_with_none_of_the_others() -> None:
    assert not set(EXIT_OF_ENDING.values()) & {*range(9), 126, 127, 129, 130, 141, 143}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (UNAVAILABLE, Exit.UNREACHABLE),
        (Failure(grpc.StatusCode.NOT_FOUND), Exit.NOT_FOUND),
        (Failure(grpc.StatusCode.UNAUTHENTICATED), Exit.DENIED),
        (Failure(grpc.StatusCode.PERMISSION_DENIED), Exit.DENIED),
        (precondition("PROTO_VERSION"), Exit.PROTO_VERSION),
        (precondition("EPOCH_CHANGED"), Exit.CONDITION),
        (invalid("instance_id", "must be a UUID"), Exit.USAGE),
        (exhausted(1), Exit.FAILED),
        (Failure(grpc.StatusCode.INTERNAL), Exit.FAILED),
    ],
)
async def test_a_call_that_fails_is_told_in_two_lines_and_a_code(standin: StandIn, answer: Reply, code: Exit) -> None:
    standin.always("GetInstance", answer)
    ended = await imctl("metrics", "0192f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f", "--address", standin.address)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.count("\n") == 2
    assert ended.err.startswith(f"imctl: {standin.address}: ")
