"""Runs one measuring tool of somebody else: `python -m unnoticed.probes.tool_runner SETTINGS` (JSON: argv, output).

From "start" to "stop", then it is interrupted as by its user and has a moment to print its account. The tool dies with
this process, whatever ends it.
"""

from __future__ import annotations

import ctypes
import json
import select
import signal
import subprocess
import sys
from pathlib import Path

from unnoticed.control import Control, ParentGoneError

_LAST_WORDS_S = 5.0
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h

_libc = ctypes.CDLL(None)  # loaded here: after the fork nothing may be


def _prepare() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs, and what they start, would ignore it


class ToolRunner:
    """One tool, once. What it prints, on stdout and stderr, goes to `output`."""

    def __init__(self, argv: list[str], *, output: Path, control: Control) -> None:
        self._argv, self._output, self._control = argv, output, control
        self._commands = select.poll()
        self._commands.register(control.fileno(), select.POLLIN)

    def run(self) -> None:
        """Serve the control channel. Raises ParentGoneError; OSError where the tool cannot be started."""
        self._control.reply("ready")
        self._wait("start")
        with self._output.open("wb") as output:
            tool = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_prepare,  # noqa: PLW1509 (there is one thread)
            )
            try:
                self._wait("stop")
                ended = tool.poll()  # before it was asked to: it gave up
                tool.send_signal(signal.SIGINT)
                status = tool.wait(_LAST_WORDS_S)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                tool.kill()
                tool.wait()
        self._control.reply("done", status=status, ended_early=ended is not None)

    def _wait(self, command: str) -> None:
        while not any(each["command"] == command for each in self._control.receive()):
            self._commands.poll()


def main() -> int:
    """Run as a child process; 1 if the parent went away."""
    settings = json.loads(sys.argv[1])
    try:
        ToolRunner(settings["argv"], output=Path(settings["output"]), control=Control()).run()
    except ParentGoneError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
