"""What of a database's address may be an argument, and what goes beside it."""

import pytest

from manager.embedded.argument import tells_secret, without_password


@pytest.mark.parametrize(
    ("given", "shown", "password"),
    [
        (
            "postgresql://im_auditor:a%40b@db:5432/x?sslmode=require",
            "postgresql://im_auditor@db:5432/x?sslmode=require",
            "a@b",
        ),
        ("postgresql://u:a@b?c@db,other:5433/x", "postgresql://u@db,other:5433/x", "a@b?c"),
        ("postgresql:///x?host=/run&p%61ssword=a%26b&user=u", "postgresql:///x?host=/run&user=u", "a&b"),
        (r"host=db password='it\'s so' user=u", "host=db user=u", "it's so"),
        ("user=u  password = plain", "user=u", "plain"),
    ],
)
def test_a_password_goes_into_the_environment_and_out_of_the_command_line(
    given: str, shown: str, password: str
) -> None:
    assert without_password(given) == (shown, {"PGPASSWORD": password})
    assert (tells_secret(given), tells_secret(shown)) == (True, False)


@pytest.mark.parametrize(
    "given", ["postgresql://im_auditor@db/x", "postgresql:///x", "postgresql://h", "host='a password=b' user=u", ""]
)
def test_an_address_without_a_password_stays_as_it_is(given: str) -> None:
    assert without_password(given) == (given, {})
    assert not tells_secret(given)


def test_the_password_of_a_key_is_a_secret_too() -> None:
    assert tells_secret("postgresql://u@db/x?sslkey=/k&sslpassword=secret")
    assert not tells_secret("postgresql://u:@db/x")
