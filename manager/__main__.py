"""The command line's entry: `imctl`, and `python -m manager`."""

import os
import sys


def main() -> None:
    """Runs `imctl`; says what to install where the command line's own packages are missing."""
    # what is forked is exec'ed at once: gRPC's handlers of forks have nothing to do, and crash the child now and then
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # it has a line for each fault of each client, with the client's own words in it, and no level between that and none
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import typer  # noqa: F401 - the client alone installs without it
    except ModuleNotFoundError:
        sys.exit("imctl: the command line is not installed: pip install 'instance-manager[run]'")
    from manager.cli.app import imctl

    imctl(sys.argv[1:])


if __name__ == "__main__":
    main()
