"""Becomes a command that dies with its parent: run as a script of its own, by `manager.cli.command`.

    python launch.py ERROR_FD PARENT_PID COMMAND [ARGUMENT...]

A program between, and not code between fork and exec, because gRPC has threads, whose locks a fork may copy locked.
It writes the errno to ERROR_FD where the command cannot be executed. Imports the standard library alone.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Has the kernel kill this process when its parent dies (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(1)


def main(error_fd: int, parent: int, command: list[str]) -> None:
    """Executes the command in the place of this process."""
    os.set_inheritable(error_fd, False)
    die_with(parent)
    for sign in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and a command would inherit that
        signal.signal(sign, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(error_fd, str(error.errno).encode())
        os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
