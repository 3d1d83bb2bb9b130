from uuid import UUID

from manager.client.ids import new_id, uuid7_text


def test_an_id_has_the_layout_of_the_rfc() -> None:
    random_bits = 0xCC3 << 62 | 0x18C4DC0C0C07398F  # RFC 9562, appendix A.6
    assert uuid7_text(0x017F22E279B0, random_bits) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


def test_ids_are_of_version_7_and_differ() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(UUID(each).version == 7 and str(UUID(each)) == each for each in ids)


def test_a_later_id_sorts_later() -> None:
    assert uuid7_text(1_700_000_000_000, (1 << 74) - 1) < uuid7_text(1_700_000_000_001, 0)
