import pytest
import typer

from manager.cli import parse
from manager.pb.instance_manager_pb2 import (
    CHROME_BROWSER,
    CHROME_DEBUG_PORT,
    VLLM,
    VLLM_OPENAI_COMPATIBLE,
    Service,
    ServiceType,
)


@pytest.mark.parametrize(
    ("text", "kind", "host", "port", "path"),
    [
        ("CHROME_DEBUG_PORT=9222", CHROME_DEBUG_PORT, "127.0.0.1", 9222, ""),
        ("VLLM_OPENAI_COMPATIBLE=8000", VLLM_OPENAI_COMPATIBLE, "here", 8000, ""),
        ("vllm_openai_compatible=8000/v1", VLLM_OPENAI_COMPATIBLE, "here", 8000, "/v1"),
        ("CHROME_DEBUG_PORT=10.0.0.1:9222/devtools/a", CHROME_DEBUG_PORT, "10.0.0.1", 9222, "/devtools/a"),
        ("CHROME_DEBUG_PORT=[::1]:9222", CHROME_DEBUG_PORT, "::1", 9222, ""),
    ],
)
def test_a_service_is_read(text: str, kind: ServiceType.ValueType, host: str, port: int, path: str) -> None:
    assert parse.service(text, "here") == Service(service_type=kind, host=host, port=port, path=path)


@pytest.mark.parametrize(
    "text",
    [
        *("", "9222", "X=1", "SERVICE_TYPE_UNSPECIFIED=1", "CHROME_DEBUG_PORT"),
        *(f"CHROME_DEBUG_PORT={place}" for place in ("", "host", "[::1]", "0", "65536", ":1")),
    ],
)
def test_what_is_no_service_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse.service(text, "here")


def test_a_type_is_read_by_its_name() -> None:
    assert parse.instance_type("CHROME_BROWSER") == CHROME_BROWSER
    assert parse.instance_type("vllm") == VLLM


@pytest.mark.parametrize("text", ["", "CHROME", "INSTANCE_TYPE_UNSPECIFIED", "1"])
def test_what_is_no_type_is_refused_with_all_the_types(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="WARMPOOL_PROXY"):
        parse.instance_type(text)


def test_a_label_may_hold_an_equals_sign_and_be_empty() -> None:
    assert parse.label("a=b=c") == ("a", "b=c")
    assert parse.label("a=") == ("a", "")


@pytest.mark.parametrize("text", ["", "a", "=b"])
def test_what_is_no_label_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse.label(text)


def test_several_addresses_stand_between_commas() -> None:
    assert parse.addresses("a, [::1]:7") == ("a:50052", "[::1]:7")


@pytest.mark.parametrize("text", ["", "a,,b", "a:0"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse.addresses(text)


def test_a_duration_from_before_there_were_years_is_no_time() -> None:
    with pytest.raises(typer.BadParameter, match="is no time"):
        parse.moment("10000000000m")
