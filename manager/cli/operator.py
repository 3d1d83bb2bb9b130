"""Who stands before the terminal, for the trail."""

import getpass
import os
import socket

from manager.domain.actor import Actor


def operator() -> Actor:
    """By what this machine calls them, since the database asks nobody else who they are."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = f"uid {os.getuid()}"
    return Actor(f"{name} by imctl", address=socket.gethostname())
