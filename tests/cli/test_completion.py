"""What a shell offers, asked as the scripts of `imctl completion` ask."""

import asyncio
import shutil
import sys
from pathlib import Path

import pytest

from manager.cli.app import VERBS
from tests.cli.scene import Scene
from tests.processes import environment, imctl

BIN = Path(sys.executable).parent


async def offered(scene: Scene, line: str, shell: str) -> str:
    """What is offered at the end of this line."""
    variables = {"_IMCTL_COMPLETE": f"complete_{shell}"}
    if shell == "bash":
        variables |= {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    else:
        variables |= {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    return (await scene.imctl(**variables)).out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_verbs_options_and_living_ids_are_offered(scene: Scene, shell: str) -> None:
    one, dead = await scene.add(), await scene.add()
    await scene.kill(dead)
    verbs = await offered(scene, "imctl ", shell)
    assert all(verb in verbs for verb in VERBS)
    assert "--dry-run" in await offered(scene, "imctl kill --", shell)
    for _ in range(10):  # where the manager takes longer than a moment, nothing is offered
        if (ids := await offered(scene, "imctl kill 0", shell)).strip():
            break
    assert one in ids
    assert dead not in ids
    assert one not in await offered(scene, "imctl kill ffff", shell)


async def test_without_a_manager_nothing_is_offered_and_nothing_is_said(scene: Scene) -> None:
    variables = {"_IMCTL_COMPLETE": "complete_bash", "COMP_WORDS": "imctl kill ", "COMP_CWORD": "2"}
    ended = await imctl(**variables, IM_ADDRESS="127.0.0.1:1")
    assert (ended.out.strip(), ended.err) == ("", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_there_is_a_script_for_each_shell_that_the_shell_takes(shell: str) -> None:
    ended = await imctl("completion", shell)
    assert ended.code == 0
    assert "_IMCTL_COMPLETE" in ended.out
    program = shutil.which(shell)
    if program:
        process = await asyncio.create_subprocess_exec(program, "-n", stdin=asyncio.subprocess.PIPE)
        await process.communicate(ended.out.encode())
        assert process.returncode == 0


async def test_bash_completes_an_id_by_the_script(scene: Scene) -> None:
    one = await scene.add()
    script = (
        'eval "$(imctl completion bash)"; COMP_WORDS=(imctl describe ' + one[:20] + "); COMP_CWORD=2;"
        ' _imctl_completion imctl; echo "${COMPREPLY[0]}"'
    )
    for _ in range(10):
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", script),
            env=environment(IM_ADDRESS=scene.address, PATH=f"{BIN}:/usr/bin:/bin"),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        if out.strip():
            break
    assert out.decode().strip() == one


async def test_a_shell_that_is_not_known_is_refused() -> None:
    ended = await imctl("completion", "tcsh")
    assert (ended.code, ended.out) == (2, "")
