"""Which manager is meant: flags, environment, file; and what it is shown."""

from pathlib import Path

import pytest
import typer

from manager.cli import config
from manager.cli.connection import NEAR, Connection
from tests.cli.scene import Scene
from tests.client.standin import StandIn
from tests.processes import imctl

FILE = """
context = "home"

[contexts.home]
address = "home:1"
token = "secret"

[contexts.prod]
address = "prod:2, prod:3"
token_file = "{token}"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One with a config file."""
    (tmp_path / "token").write_text("of-prod\n")
    (tmp_path / "instance-manager").mkdir()
    (tmp_path / "instance-manager/config.toml").write_text(FILE.format(token=tmp_path / "token"))
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def asked(environment: dict[str, str], address: str = "", context: str = "", **variables: str) -> tuple[str, str]:
    """The address and the token."""
    target = Connection(address, context).target(environment | variables)
    return str(target), target.access.token


def test_without_a_word_it_is_the_manager_on_this_machine(tmp_path: Path) -> None:
    assert asked({"XDG_CONFIG_HOME": str(tmp_path)}) == (NEAR, "")


def test_a_flag_is_stronger_than_the_environment_and_that_than_the_file(environment: dict[str, str]) -> None:
    assert asked(environment) == ("home:1", "secret")
    assert asked(environment, IM_ADDRESS="a:1", IM_TOKEN="t") == ("a:1", "t")
    assert asked(environment, "b:1", IM_ADDRESS="a:1", IM_TOKEN="t") == ("b:1", "t")
    assert asked(environment, IM_CONTEXT="prod") == ("prod:2,prod:3", "of-prod")
    assert asked(environment, context="prod", IM_ADDRESS="a:1", IM_TOKEN="t") == ("prod:2,prod:3", "of-prod")
    assert asked(environment, "b:1", "prod", IM_ADDRESS="a:1") == ("b:1", "of-prod")


def test_the_token_of_the_default_context_goes_to_nobody_else(environment: dict[str, str]) -> None:
    assert asked(environment, "b:1") == ("b:1", "")
    assert asked(environment, IM_ADDRESS="a:1") == ("a:1", "")


def test_a_context_that_is_none_is_refused_with_those_that_are(environment: dict[str, str]) -> None:
    with pytest.raises(typer.BadParameter, match="home, prod"):
        asked(environment, context="nonsense")


@pytest.mark.parametrize(
    "text", ["[", "x = 1", "context = 1", "contexts = 1", "[contexts]\na = 1", "[contexts.a]\naddres = 'x'",
             "[contexts.a]\naddress = 1"]
)  # fmt: skip
def test_a_file_that_says_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(typer.BadParameter, match="config"):
        config.read({"IM_CONFIG": str(tmp_path / "config")})


def test_a_file_that_is_named_and_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="no such file"):
        config.read({"IM_CONFIG": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"IM_TLS_CA": "/nowhere"}, "/nowhere"),
        ({"IM_TLS_CERT": "/dev/null"}, "key"),
        ({"IM_TOKEN": "two\nlines"}, "token"),
        ({"IM_ADDRESS": "a:b"}, "no address"),
    ],
)
def test_what_cannot_be_used_is_refused(variables: dict[str, str], named: str, tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match=named):
        asked({"XDG_CONFIG_HOME": str(tmp_path)}, **variables)


async def test_the_token_comes_with_every_call(standin: StandIn) -> None:
    ended = await imctl("run", "--type", "VLLM", "--", "true", IM_ADDRESS=standin.address, IM_TOKEN="secret")
    assert ended.code == 0
    assert standin.metadata
    assert all(each["authorization"] == "Bearer secret" for each in standin.metadata)


async def test_with_a_ca_nothing_is_said_in_the_clear(scene: Scene) -> None:
    """A manager that speaks no TLS is not talked to."""
    ca = "/etc/ssl/certs/ca-certificates.crt"
    if not Path(ca).exists():
        pytest.skip("no certificates on this machine")
    ended = await scene.imctl("get", IM_TLS_CA=ca)
    assert (ended.code, ended.out) == (4, "")


async def test_a_name_that_nobody_knows_is_out_of_reach() -> None:
    ended = await imctl("get", IM_ADDRESS="nowhere.invalid:1,nowhere.invalid:2")
    assert ended.code == 4
    assert "nowhere.invalid:1" in ended.err


async def test_what_runs_inside_an_instance_talks_to_the_same_manager(
    standin: StandIn, environment: dict[str, str]
) -> None:
    arguments = ("--context", "prod", "--address", standin.address, "--", "sh", "-c", "echo $IM_ADDRESS $IM_CONTEXT")
    ended = await imctl("run", "--type", "VLLM", *arguments, **environment)
    assert ended.out.split() == [standin.address, "prod"]
    assert {each["authorization"] for each in standin.metadata} == {"Bearer of-prod"}
