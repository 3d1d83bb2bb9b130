"""The address of a database on the command line, which may not have its password there."""

import typer

from manager.embedded.argument import tells_secret


def unreadable(context: typer.Context, parameter: typer.CallbackParam, url: str) -> str:
    """The address as given. Raises BadParameter where it stands among the arguments with a password in it."""
    source = context.get_parameter_source(parameter.name or "")
    if source is not None and source.name == "COMMANDLINE" and tells_secret(url):
        raise typer.BadParameter(
            "everybody on this machine can read a password among arguments: "
            f"give the address as {parameter.envvar}, or leave its password to PGPASSWORD or ~/.pgpass"
        )
    return url
