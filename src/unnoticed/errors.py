"""The error families of the product: one root, one family for each party that can be at fault.

A message is one sentence for the user: what is wrong, where, what to do. The command line maps families to exit
codes; nothing else should catch the root.
"""

from __future__ import annotations


class UnnoticedError(Exception):
    """Root of every error that the product raises on purpose."""


class PlanError(UnnoticedError):
    """The plan or the command line is wrong (exit code 2).

    `problems` holds one sentence per mistake, so that a plan with five mistakes shows all five.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class MachineError(UnnoticedError):
    """This machine lacks something the work needs: a capability, a package, a kernel feature (exit code 77)."""


class FabricError(UnnoticedError):
    """The emulated network could not be built, or is not what was asked for (exit code 1)."""


class PeerError(UnnoticedError):
    """The other end of a migration broke the protocol, or went away (the migration fails)."""


class MigrationError(UnnoticedError):
    """This end could not carry out its part of a migration (the migration fails)."""


class RecordError(UnnoticedError):
    """A capture or another record of a trial is incomplete or damaged (the trial fails)."""
