"""Runs one measuring tool of somebody else: `python -m unnoticed.probes.tool_runner SETTINGS` (JSON: argv, output).

From "start" to "stop", then it is interrupted as by its user and has a moment to print its account. With `seconds` in
the settings it ends by itself after so long, and is waited for instead. The tool dies with this process, whatever ends
it.
"""

from __future__ import annotations

import ctypes
import json
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from unnoticed.control import Control, ParentGoneError
from unnoticed.probes.tools import ENDED_EARLY

_LAST_WORDS_S = 5.0
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h

_libc = ctypes.CDLL(None)  # loaded here: after the fork nothing may be


def _prepare() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs, and what they start, would ignore it


class ToolRunner:
    """One tool, once. What it prints, on stdout and stderr, goes to `output`.

    `seconds`: for how long it runs by itself; None where it is to be interrupted.
    """

    def __init__(self, argv: list[str], *, output: Path, control: Control, seconds: int | None = None) -> None:
        self._argv, self._output, self._control, self._seconds = argv, output, control, seconds
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
            started_s = time.monotonic()
            try:
                self._wait("stop")
                ended = tool.poll()  # before it was asked to: it gave up
                if self._seconds is None:
                    tool.send_signal(signal.SIGINT)
                    left_s = 0.0
                else:
                    left_s = max(0.0, started_s + self._seconds - time.monotonic())
                status = tool.wait(left_s + _LAST_WORDS_S)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                tool.kill()
                tool.wait()
        if self._seconds is not None and ended is not None:
            with self._output.open("a", encoding="utf-8") as output:
                output.write(f"\n{ENDED_EARLY}\n")
        self._control.reply("done", status=status, ended_early=ended is not None)

    def _wait(self, command: str) -> None:
        while not any(each["command"] == command for each in self._control.receive()):
            self._commands.poll()


def main() -> int:
    """Run as a child process; 1 if the parent went away."""
    settings = json.loads(sys.argv[1])
    try:
        output, seconds = Path(settings["output"]), settings.get("seconds")
        ToolRunner(settings["argv"], output=output, control=Control(), seconds=seconds).run()
    except ParentGoneError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
