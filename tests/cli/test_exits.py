from manager.cli.codes import Exit
from manager.cli.exits import EXIT_OF_ENDING, EXIT_OF_ERROR, exit_of
from manager.client.errors import ERROR_OF, PRECONDITION_OF
from manager.client.notices import Ending


def test_every_ending_has_an_exit_code_of_its_own() -> None:
    assert set(EXIT_OF_ENDING) == set(Ending)
    assert len(set(EXIT_OF_ENDING.values())) == len(Ending)


def test_every_error_of_the_contract_has_an_exit_code() -> None:
    kinds = {*ERROR_OF.values(), *PRECONDITION_OF.values()}
    assert all(any(issubclass(kind, known) for known in EXIT_OF_ERROR) for kind in kinds)
    assert exit_of.__annotations__["return"] is Exit


def test_the_codes_of_endings_clash_with_none_of_the_others() -> None:
    assert not set(EXIT_OF_ENDING.values()) & {*range(9), 126, 127, 129, 130, 143}
