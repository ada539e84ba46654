"""Post-install command of `follow --exec`. Runs processes."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping

from randygpt.cli.output import print_stderr

DEADLINE_S = 600.0


class PostInstallHook:
    """A shell command that runs after each install, one at a time and in order; its failure is only reported."""

    def __init__(self, command: str, *, deadline_s: float = DEADLINE_S) -> None:
        self._command = command
        self._deadline_s = deadline_s
        self._last: asyncio.Task[None] | None = None

    def start(self, environment: Mapping[str, str]) -> None:
        """Run the command with additional environment variables, after the previous run has ended."""
        self._last = asyncio.create_task(self._run(environment, self._last))

    async def finish(self) -> None:
        """Wait for all runs that were started."""
        if self._last:
            await self._last

    async def _run(self, environment: Mapping[str, str], before: asyncio.Task[None] | None) -> None:
        if before:
            await before
        try:
            process = await asyncio.create_subprocess_shell(
                self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=2,  # stdout carries our own results
                env=os.environ | environment,
                start_new_session=True,
            )
        except OSError as error:
            print_stderr(f"--exec: {error.strerror or error}")
            return
        try:
            async with asyncio.timeout(self._deadline_s):
                code = await process.wait()
            if code:
                print_stderr(f"--exec: command failed with exit code {code}")
        except TimeoutError:
            print_stderr(f"--exec: command killed after {self._deadline_s:g} s")
        finally:
            with contextlib.suppress(ProcessLookupError):  # also ends its children
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
