"""imctl sql: whom it logs in as, and what it shows of the password."""

import pytest

from manager.embedded.backup import without_password


@pytest.mark.parametrize(
    ("given", "shown", "password"),
    [
        (
            "postgresql://im_auditor:a%40b@db:5432/x?sslmode=require",
            "postgresql://im_auditor@db:5432/x?sslmode=require",
            "a@b",
        ),
        ("postgresql://im_auditor@db/x", "postgresql://im_auditor@db/x", None),
        ("postgresql:///x", "postgresql:///x", None),
    ],
)
def test_a_password_goes_into_the_environment_and_out_of_the_command_line(
    given: str, shown: str, password: str | None
) -> None:
    assert without_password(given) == (shown, {} if password is None else {"PGPASSWORD": password})
