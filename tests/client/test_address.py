import pytest

from manager.client.address import Address, address, mapped, targets, together


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("manager", "manager", 50052),
        ("manager:7", "manager", 7),
        ("10.0.0.1:65535", "10.0.0.1", 65535),
        ("[::1]:50052", "::1", 50052),
        ("[::1]", "::1", 50052),
        ("::1", "::1", 50052),
        (" 127.0.0.1 ", "127.0.0.1", 50052),
    ],
)
def test_an_address_is_read(text: str, host: str, port: int) -> None:
    assert address(text) == Address(host, port)


@pytest.mark.parametrize("text", ["", ":1", "a:", "a:0", "a:65536", "a:x", "a:-1", "[]:1", "a:²"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write host:port"):
        address(text)


def test_a_single_name_is_left_to_grpc_which_follows_its_dns() -> None:
    assert targets([Address("manager.example", 1)]) == ["manager.example:1"]
    assert together(["manager.example:1"]) == "manager.example:1"


def test_several_addresses_of_both_families_are_one_target() -> None:
    found = targets([Address("10.0.0.1", 1), Address("::1", 2), Address("10.0.0.1", 1)])
    assert found == ["ipv6:[::ffff:10.0.0.1]:1", "ipv6:[::1]:2"]
    assert together(found) == "ipv6:[::ffff:10.0.0.1]:1,[::1]:2"


def test_a_name_without_an_entry_is_passed_over() -> None:
    assert targets([Address("nobody.invalid", 1), Address("10.0.0.1", 2)]) == ["ipv6:[::ffff:10.0.0.1]:2"]


def test_names_that_all_have_no_entry_are_an_error() -> None:
    with pytest.raises(OSError, match=r".+"):
        targets([Address("nobody.invalid", 1), Address("nowhere.invalid", 2)])


def test_an_ipv4_address_has_an_ipv6_form() -> None:
    assert str(mapped("10.0.0.1", 5)) == "[::ffff:10.0.0.1]:5"
