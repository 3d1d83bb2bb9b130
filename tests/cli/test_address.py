"""Passwords among the arguments: refused, whatever form they have, and never said again."""

import pytest

from tests.processes import imctl

SECRET = "hunter2"


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://postgres:{SECRET}@127.0.0.1:1/x",
        f"postgresql://postgres@127.0.0.1:1/x?password={SECRET}",
        f"host=127.0.0.1 port=1 password={SECRET}",
    ],
)
@pytest.mark.parametrize(
    ("verb", "variable"),
    [
        (("sql", "-c", "select 1"), "IM_AUDITOR_URL"),
        (("backup", "/nowhere"), "IM_SUPERUSER_URL"),
        (("restore", "/nowhere", "--dump"), "IM_SUPERUSER_URL"),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
async def test_a_password_in_an_argument_is_refused_and_not_repeated(
    verb: tuple[str, ...], variable: str, address: str
) -> None:
    for told in (await imctl(*verb, "--url", address), await imctl(*verb, f"--url={address}")):
        first, second = told.err.splitlines()
        assert (told.code, told.out) == (2, "")
        assert first.startswith("imctl: Invalid value for '--url'")
        assert first.endswith(
            ": everybody on this machine can read a password among arguments: "
            f"give the address as {variable}, or leave its password to PGPASSWORD or ~/.pgpass"
        )
        assert SECRET not in first
        assert second.strip() == f"see `imctl {verb[0]} --help`"


async def test_the_same_address_in_the_environment_is_used() -> None:
    url = f"postgresql://im_auditor:{SECRET}@127.0.0.1:1/x"
    told = await imctl("sql", "-c", "select 1", IM_AUDITOR_URL=url)
    assert (told.code, SECRET in told.err) == (1, False)
    assert told.err.startswith("imctl: the database cannot be asked: ")
