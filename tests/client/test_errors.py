import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from manager.client.errors import DETAILS, ERROR_OF, ManagerError, PreconditionError, Violation, typed


def test_every_status_of_the_contract_has_a_class_of_its_own() -> None:
    plain = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.CANCELLED}
    for code in set(ERROR_OF) | plain:
        error = typed(AioRpcError(code, details="so"))
        assert type(error) is ERROR_OF.get(code, ManagerError)
        assert (error.code(), str(error)) == (code, "so")


def test_details_that_cannot_be_read_do_not_hide_the_error() -> None:
    trailers = Metadata((DETAILS, b"\xff\xff no status"))
    error = typed(AioRpcError(grpc.StatusCode.FAILED_PRECONDITION, trailing_metadata=trailers))
    assert type(error) is PreconditionError
    assert (error.reason, error.violations, error.retry_after) == ("", (), None)


def test_an_error_names_the_fields_that_its_message_does_not() -> None:
    error = typed(AioRpcError(grpc.StatusCode.INVALID_ARGUMENT, details="malformed"))
    error.violations = (Violation("port", "must be 1 to 65535"),)
    assert str(error) == "malformed (port: must be 1 to 65535)"


def test_an_error_without_a_text_is_told_by_its_code() -> None:
    assert str(typed(AioRpcError(grpc.StatusCode.UNAVAILABLE))) == "UNAVAILABLE"


def test_a_typed_error_stays_as_it_is() -> None:
    error = typed(AioRpcError(grpc.StatusCode.UNAVAILABLE))
    assert typed(error) is error
    with pytest.raises(AioRpcError):
        raise error
