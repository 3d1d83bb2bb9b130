"""The form of tokens."""

from hypothesis import given
from hypothesis import strategies as st

from manager.domain.token import ALPHABET, CHECK, FORM, LENGTH, PREFIX, digest, new_token, well_formed


def test_a_token_has_the_form_that_scanners_look_for_and_no_two_are_alike() -> None:
    made = {new_token() for _ in range(1_000)}
    assert len(made) == 1_000
    assert all(FORM.fullmatch(each) and well_formed(each) for each in made)
    assert {len(each) for each in made} == {len(PREFIX) + LENGTH + CHECK}
    assert 62**LENGTH > 2**256


@given(st.integers(min_value=0), st.sampled_from(ALPHABET))
def test_a_slip_of_the_pen_is_noticed(place: int, other: str) -> None:
    token = new_token()
    at = len(PREFIX) + place % (len(token) - len(PREFIX))
    wrong = token[:at] + other + token[at + 1 :]
    assert well_formed(wrong) is (wrong == token)


@given(st.text())
def test_what_is_no_token_is_none(text: str) -> None:
    assert not well_formed(text)


def test_the_digest_is_sha_256() -> None:
    assert digest("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
