"""`imctl completion`: what makes a shell complete verbs, options and live ids."""

from enum import StrEnum
from typing import Annotated

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]

from manager.cli.app import COMPLETES
from manager.cli.output import write


class Shell(StrEnum):
    """Those that are known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="For which shell.", metavar="|".join(Shell))]) -> None:
    """Write the script that makes a shell complete verbs, options, and the ids of the living.

    Ids come from the manager that IM_ADDRESS or the config file name, if it answers within 0.3 s.

    \b
    Examples:
      eval "$(imctl completion bash)"
      imctl completion zsh > "${fpath[1]}/_imctl"
      imctl completion fish > ~/.config/fish/completions/imctl.fish
    """
    write(get_completion_script(prog_name="imctl", complete_var=COMPLETES, shell=shell) + "\n")
