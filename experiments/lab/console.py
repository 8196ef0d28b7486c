"""The lab's console: Mininet's own command line, with commands for the guest, the clients and what they feel."""

from __future__ import annotations

import io
import math
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from unnoticed.clock import now_ns
from unnoticed.errors import UnnoticedError
from unnoticed.experiments.interrupts import every_interrupt, shielded
from unnoticed.experiments.lab.lab import Lab, Migrated
from unnoticed.experiments.lab.link_words import parse
from unnoticed.experiments.lab.picture import SPAN_NS, picture
from unnoticed.experiments.lab.pulse import Felt
from unnoticed.experiments.lab.refusals import REFUSALS
from unnoticed.topology.quietly import CLI, console_output

_FRAMES_PER_S = 8
_INTRODUCTION = """\
The guest serves at {guest_at}, under load from {clients}. Commands, besides Mininet's (help names them):
"""
_COMMANDS = """\
  migrate               move the guest to the other host, and see what its clients feel meanwhile
  status                where the guest is, and what the clients felt in the last ten seconds
  watch [SECONDS]       the live picture of what the clients see; Ctrl-C ends it
  tables                behind which port each switch takes the guest to be
  probe [CLIENT]        a hundred probes to the guest, now
  link NODE NODE down|up
                        cut a link, and restore it to what it was at first
  link NODE NODE loss 1% delay 5ms ...
                        let a link be something else (NODE>NODE: one direction)
  wireshark INTERFACE   Wireshark where there is one, else a capture file that grows
  NODE COMMAND          run a command there, for instance: c1 ping -c 3 guest
  source FILE           do what the lines of a file say
  exit                  end the load, check every byte, and take all of it down
"""


class Console(CLI):  # type: ignore[misc]  # mininet has no types
    """Reads commands until exit or the end of input. `problem_count` is how many of them failed."""

    prompt = "unnoticed> "
    identchars = CLI.identchars + "-"  # guest-a is the name of a node

    def __init__(self, lab: Lab, *, stdin: IO[str] = sys.stdin) -> None:
        self._lab = lab
        self.problem_count = 0
        self._sources: list[Path] = []
        self.stdout = sys.stdout
        if isinstance(stdin, io.TextIOWrapper):
            stdin.reconfigure(errors="backslashreplace")  # bytes that are no text are a command that there is not
        with console_output():
            self._say(_INTRODUCTION.format(guest_at=lab.guest_at, clients=_listed(lab.fabric.clients)) + _COMMANDS)
            super().__init__(lab.fabric.network, stdin=stdin)  # returns when the user has left

    def run(self) -> None:
        """Take commands; Ctrl-C ends what goes on, not the lab."""
        with every_interrupt():
            super().run()

    def onecmd(self, line: str) -> Any:
        """One command; what it raises is said, and the lab goes on."""
        name = self.parseline(line)[0] or ""
        if name in REFUSALS:
            return self._complain(REFUSALS[name])
        try:
            return super().onecmd(line)
        except UnnoticedError as error:
            return self._complain(str(error))
        except SystemExit as error:
            if error.code:
                self._complain(f"{name}: it exits, and the lab ends ({error.code}).")
            return self.do_exit("")
        except Exception as error:  # Mininet's commands, and what they call, raise as they like
            text = " ".join(str(error).split()).rstrip(".")
            said = f"{type(error).__name__}: {text}" if text else type(error).__name__
            return self._complain(f"{name}: it failed, and the lab goes on ({said}).")

    def postcmd(self, stop: Any, _line: str) -> Any:
        """Whether that was the last command; Python's own exit() closes stdin, wherever it was called."""
        return stop or self.stdin.closed

    # -- commands --------------------------------------------------------------------------------------------------

    def do_migrate(self, line: str) -> None:
        """Move the guest to the host where it is not, as the plan's migration says: migrate"""
        here, there, asked = self._lab.guest_at, self._lab.guest_to, line.strip()
        if asked.lower() not in ("", there):
            return self._complain(f"migrate: the guest is at {here} and can go to {there}, not to {asked}.")
        title = f"migrating from {self._lab.guest_at} to {self._lab.guest_to}"
        with self._live(title), shielded():  # half a migration is of no use to anybody
            migrated = self._lab.migrate()
        self._say("\n".join(migrated_lines(migrated)) + "\n")
        if migrated.outcome != "completed":
            self.problem_count += 1

    def do_status(self, _line: str) -> None:
        """Where the guest is, and what the clients felt in the last ten seconds: status"""
        now = now_ns()
        self._say(f"The guest runs at {self._lab.guest_at}. The last ten seconds:\n")
        for client, felt in self._lab.felt(from_ns=now - 10_000_000_000, to_ns=now).items():
            self._say(f"  {felt_line(client, felt)}\n")

    def do_watch(self, line: str) -> None:
        """The live picture of what the clients see, for some seconds or until Ctrl-C: watch [SECONDS]"""
        try:
            limit_s = float(line) if line.strip() else math.inf
        except ValueError:
            limit_s = math.nan
        if not limit_s >= 0:
            return self._complain(f"watch: {line!r} is not a number of seconds.")
        if not self.stdout.isatty():
            limit_s = min(limit_s, SPAN_NS / 1e9)
        try:
            with self._live(f"the guest is at {self._lab.guest_at}"):
                end = time.monotonic() + limit_s
                while (left_s := end - time.monotonic()) > 0:
                    time.sleep(min(left_s, 0.2))
        except KeyboardInterrupt:
            pass
        return None

    def do_tables(self, _line: str) -> None:
        """Behind which port each switch takes the guest to be: tables"""
        for switch, toward in self._lab.tables().items():
            self._say(f"  {switch:<8} {'does not know the guest' if toward is None else f'guest toward {toward}'}\n")

    def do_probe(self, line: str) -> None:
        """A hundred probes to the guest, now, and what came of them: probe [CLIENT]"""
        clients = [line.strip()] if line.strip() else list(self._lab.fabric.clients)
        for client in clients:
            if client not in self._lab.fabric.clients:
                self._complain(f"probe: there is no client {client!r}; there are {_listed(self._lab.fabric.clients)}.")
                continue
            self._say(f"  {felt_line(client, self._lab.probe(client))}\n")

    def do_link(self, line: str) -> None:
        """Cut the link between two nodes, restore it, or change it: link NODE NODE up|down|loss 1% delay 5ms ..."""
        link, change, up = parse(line)
        if change is not None:
            self._lab.fabric.change_link(change)
        elif up:
            self._lab.fabric.restore_link(link)
        else:
            self._lab.fabric.cut_link(link)

    def do_wireshark(self, line: str) -> None:
        """Look at an interface, with Wireshark where there is one, else in a file: wireshark INTERFACE"""
        found = self._lab.interfaces.get(line.strip())
        if found is None:
            return self._complain(f"wireshark: name an interface: {_listed(sorted(self._lab.interfaces))}.")
        node, interface = found
        if shutil.which("wireshark") and self._lab.has_display:
            self._lab.open_wireshark(node, interface)
        else:
            self._say(f"Capturing, from now until the lab ends, to {self._lab.record(node, interface)}\n")
        return None

    def do_source(self, line: str) -> Any:
        """Do what the lines of a file say, as if they were typed: source FILE"""
        if not line.strip():
            return self._complain("source: name the file whose lines are to be done: source FILE.")
        file = Path(line.strip())
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            return self._complain(f"source: {file} cannot be read ({error.strerror}).")
        except UnicodeDecodeError:
            return self._complain(f"source: {file} is no text in UTF-8.")
        if file.resolve() in self._sources:
            return self._complain(f"source: {file} is being read already; a file cannot read itself.")
        self._sources.append(file.resolve())
        try:
            # The first command that says so leaves the lab; Mininet's own would go on.
            return next((stop for each in lines if (stop := self.onecmd(self.precmd(each)))), None)
        finally:
            self._sources.pop()

    def do_help(self, line: str) -> None:
        """The commands there are, or a line on one of them: help [COMMAND]"""
        if line in REFUSALS:
            self._say(f"{REFUSALS[line]}\n")
            return
        if line:
            super().do_help(line)
            return
        own = {name for name in vars(Console) if name.startswith("do_")} | {"do_exit", "do_EOF"}
        theirs = (name for name in self.get_names() if name.startswith("do_") and name not in own)
        others = sorted(name.removeprefix("do_") for name in theirs)
        names = textwrap.fill(f"Mininet's commands, which know nothing of the guest: {', '.join(others)}.", 100)
        self._say(f"{_COMMANDS}{names}\nhelp COMMAND explains one.\n")

    def default(self, line: str) -> None:
        """A command at a node; the names of others are replaced by their addresses."""
        first, arguments, _ = self.parseline(line)
        if first not in self.mn:
            return self._complain(f"There is no command or node {first or line!r}; help lists the commands.")
        super().default(f"{first} {self._with_addresses(arguments or '')}")
        return None

    def get_names(self) -> list[str]:
        """What help lists and what a tab completes to."""
        return [name for name in dir(type(self)) if name.removeprefix("do_") not in REFUSALS]

    # -- Mininet's ways ----------------------------------------------------------------------------------------------

    @classmethod
    def initReadline(cls) -> None:  # noqa: N802  # Mininet's name
        """Line editing and history within this lab; Mininet would keep it in the user's home."""
        with suppress(ImportError):
            import readline  # noqa: F401  # `cmd` uses it once it is imported

    def waitForNode(self, node: Any) -> None:  # noqa: N802  # Mininet's name
        """Say what a node's command says, until it has ended. What is typed meanwhile is its input.

        Lines that are not typed are commands of the console; Mininet would have fed those of a file to the node.
        """
        if self.isatty():
            super().waitForNode(node)
            return
        while node.waiting:
            self._say(node.monitor())

    def _with_addresses(self, text: str) -> str:
        known = {name: self._lab.address(name) for name in self._lab.fabric.places}
        known["guest"] = self._lab.address("guest-a")
        return " ".join(known.get(word, word) for word in text.split(" "))

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()

    def _complain(self, sentence: str) -> None:
        self.problem_count += 1
        self._say(sentence + "\n")

    @contextmanager
    def _live(self, title: str) -> Iterator[None]:
        """The picture while the body runs, on a terminal; else nothing."""
        if not self.stdout.isatty():
            yield
            return
        from rich.console import Console as Screen
        from rich.live import Live

        def look() -> Any:
            return picture(self._lab.beats(span_ns=SPAN_NS), title=title, to_ns=now_ns())

        screen = Screen(file=self.stdout)
        with Live(get_renderable=look, console=screen, refresh_per_second=_FRAMES_PER_S, transient=False):
            yield


def migrated_lines(migrated: Migrated) -> list[str]:
    """What is said of a migration: how it ended, its rounds, the blackout, and what each client felt."""
    lines = [
        f"  round {entry['round']}: {entry['pages']} pages in {(entry['end_ns'] - entry['start_ns']) / 1e6:.0f} ms, "
        f"{entry['dirty_pages']} dirtied meanwhile"
        for entry in migrated.rounds
    ]
    way = f"from {migrated.source} to {migrated.destination}"
    if migrated.outcome == "completed" and migrated.blackout_ns is not None:
        took = f"in {migrated.took_ns / 1e9:.2f} s"
        lines.append(f"Migrated {way} {took}; the guest ran nowhere for {migrated.blackout_ns / 1e6:.1f} ms.")
    else:
        lines.append(f"The migration {way} {migrated.outcome.replace('-', ' ')}: {migrated.reason}")
    return lines + [f"  {felt_line(client, felt)}" for client, felt in migrated.felt.items()]


def felt_line(client: str, felt: Felt) -> str:
    """One client in one line."""
    if not felt.sent:
        return f"{client}: no probe was sent yet"
    if felt.median_ns is None or felt.slowest_ns is None:
        return f"{client}: none of {felt.sent} probes was answered"
    return (
        f"{client}: {felt.answered} of {felt.sent} probes answered, median {felt.median_ns / 1e6:.2f} ms, "
        f"slowest {felt.slowest_ns / 1e6:.1f} ms, longest silence {felt.longest_silence_ns / 1e6:.0f} ms"
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
