"""The command line: `unnoticed COMMAND`. Each command is a module of its own, loaded when it is called.

Exit codes: 0 fine; 1 it ran, but a trial failed or a budget was missed; 2 the command line or the plan is wrong; 77
this machine cannot do it; 130 interrupted. The answer goes to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import sys
from pathlib import Path

import click

from unnoticed import __version__
from unnoticed.errors import MachineError, PlanError, UnnoticedError
from unnoticed.experiments.interrupts import one_interrupt_for_good

EXIT_FINE, EXIT_FAILED, EXIT_WRONG, EXIT_MACHINE, EXIT_INTERRUPTED = 0, 1, 2, 77, 130

_COMMANDS = {
    "doctor": ("doctor", "What this machine can do, what it lacks, and how noisy it is."),
    "list": ("list", "The stock experiments."),
    "run": ("run", "Run an experiment and report on it."),
    "lab": ("lab", "A network to look around in: migrate, cut links, watch the clients."),
    "show": ("show", "The network of a plan as a drawing."),
    "report": ("report", "Make the report of a run (again)."),
    "compare": ("compare", "Two runs side by side, with confidence intervals."),
    "audit": ("audit", "What other methods would have reported on the same trials."),
    "calibrate": ("calibrate", "How well this machine measures: known outages, and what is made of them."),
    "record": ("record", "A real program's written pages, for a guest to replay."),
    "analyse": ("analyse", "Retransmissions and outages in captures of any origin."),
    "clean": ("clean", "Remove what a crashed run left, and only that."),
}


class _LazyGroup(click.Group):
    """Imports a command's module only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"unnoticed.experiments.commands.{_COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from unnoticed.experiments.planning.problems import suggestion

            ctx.fail(f'there is no command "{args[0]}"{suggestion(args[0], _COMMANDS)}')
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Turn the families of errors into exit codes; here and nowhere else."""
        try:
            return super().invoke(ctx)
        except PlanError as error:
            click.echo("\n".join(error.problems), err=True)
            ctx.exit(EXIT_WRONG)
        except MachineError as error:
            click.echo(str(error), err=True)
            ctx.exit(EXIT_MACHINE)
        except UnnoticedError as error:
            click.echo(str(error), err=True)
            ctx.exit(EXIT_FAILED)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            forget_stdout()
            ctx.exit(EXIT_FAILED)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="unnoticed")
def main() -> None:
    """Measures what the users of a live server feel when it is migrated to another host.

    Unnoticed builds a network on this machine, migrates a live guest across it under load, and measures what each
    client felt. Start with: unnoticed run demo
    """


def process() -> None:
    """All of a process: a signal ends it in order, whenever it comes; another changes nothing. Raises SystemExit."""
    with one_interrupt_for_good(lambda text: click.echo(text, err=True)):
        main(prog_name="unnoticed")


def forget_stdout() -> None:
    """The reader of stdout has gone (`| head`); Python must not try to flush to it again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@atexit.register
def _forget_readers_that_have_gone() -> None:
    """What a stream still holds for a reader that has gone would make Python exit with 120, whatever had happened."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def folder_argument(name: str) -> Path:
    """The folder of a run that the user named. Raises PlanError where it is none."""
    path = Path(name)
    if not path.is_dir():
        raise PlanError(f"{name}: there is no such folder; name the folder of a run, like results/runs/<UTC>-claim.")
    if not (path / "run.json").exists():
        raise PlanError(f"{name}: this is not the folder of a run, since it has no run.json.")
    return path
