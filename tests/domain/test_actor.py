from uuid import UUID

from manager.domain.actor import Actor


def test_the_history_tells_a_name_and_where_there_is_none_the_address() -> None:
    token = UUID(int=1)
    assert str(Actor("ann", token, "ipv4:10.0.0.1:1")) == "ann"
    assert str(Actor(address="ipv4:10.0.0.1:1")) == "ipv4:10.0.0.1:1"
