"""Runs: each has an id that marks everything it makes, so that what a crashed one left can be found and removed.

A run has a folder, /run/unnoticed/<id>, with `run.json`: who runs it, and where its output goes. Every process of it
carries three variables in its environment: the run's id, who its runner is (pid and start time), and where it belongs
to a fabric, the fabric's id. A run is alive as long as its runner is. Nothing else has to be written down, because
nothing of a run is outside its processes' namespaces and its folder; so there is no moment at which a crash would
leave something that cannot be found.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from unnoticed.errors import MachineError
from unnoticed.topology.processes import (
    PROC,
    Process,
    ancestors,
    end_processes,
    marked_processes,
    read_process,
    start_ticks,
    users_of,
)

REGISTRY = Path("/run/unnoticed")
MARK = "UNNOTICED_"
RUN_MARK = "UNNOTICED_RUN"
RUNNER_MARK = "UNNOTICED_RUNNER"
FABRIC_MARK = "UNNOTICED_FABRIC"
_RECORD = "run.json"
_ID_LENGTH = 8
_CLEAN_TIMEOUT_S = 10.0


def new_id() -> str:
    """A short random id, for a run or a fabric."""
    return secrets.token_hex(_ID_LENGTH // 2)


def _boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, kw_only=True)
class Runner:
    """The process that runs a run. `boot` keeps a record from before a restart of the machine from naming a new one."""

    pid: int
    start_ticks: int
    boot: str

    @classmethod
    def this(cls) -> Runner:
        """The calling process."""
        return cls(pid=os.getpid(), start_ticks=start_ticks(os.getpid()) or 0, boot=_boot_id())

    @classmethod
    def parse(cls, text: str) -> Runner | None:
        """The opposite of str(); None if `text` is no runner."""
        try:
            pid, ticks, boot = text.split(":")
            return cls(pid=int(pid), start_ticks=int(ticks), boot=boot)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.pid}:{self.start_ticks}:{self.boot}"

    def is_alive(self, *, proc: Path = PROC) -> bool:
        """Whether this very process still runs."""
        return self.boot == _boot_id() and start_ticks(self.pid, proc=proc) == self.start_ticks


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What the registry says of one run. `session` is the runner's, as setsid(2) means it."""

    id: str
    runner: Runner
    session: int
    output: str | None
    started_ns: int
    is_output_temporary: bool = False


def read_record(folder: Path) -> RunRecord | None:
    """The record in a run's folder, or None if there is none that makes sense."""
    try:
        data: dict[str, Any] = json.loads((folder / _RECORD).read_text())
        return RunRecord(**{**data, "runner": Runner(**data["runner"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


class Run:
    """A run of this process: registers it, marks this process's environment, and takes both back at the end.

    `folder` is the run's place for temporary files and sockets; it goes away with the run.
    """

    def __init__(
        self,
        *,
        output: Path | None = None,
        is_output_temporary: bool = False,
        run_id: str | None = None,
        registry: Path = REGISTRY,
    ) -> None:
        """`is_output_temporary`: nobody wants what is there if this process dies."""
        self.id = run_id or new_id()
        self.folder = registry / self.id
        self._registry = registry
        self._output = output
        self._is_output_temporary = is_output_temporary
        self._before: dict[str, str | None] = {}

    def begin(self) -> None:
        """Register the run, then mark the environment. Raises MachineError if the registry cannot be written."""
        runner = Runner.this()
        record = RunRecord(
            id=self.id,
            runner=runner,
            session=os.getsid(0),
            output=str(self._output.absolute()) if self._output else None,
            started_ns=time.time_ns(),
            is_output_temporary=self._is_output_temporary,
        )
        # The folder appears complete, or not at all; a leftover of a crash in between says in its name whose it is.
        draft = self._registry / f".{self.id}:{runner}"
        try:
            draft.mkdir(parents=True, mode=0o755)
            (draft / _RECORD).write_text(json.dumps(asdict(record)) + "\n")
            draft.rename(self.folder)
        except OSError as error:
            raise MachineError(f"Cannot register the run at {self.folder}: {error.strerror}. Are you root?") from error
        for name, value in ((RUN_MARK, self.id), (RUNNER_MARK, str(runner))):
            self._before[name] = os.environ.get(name)
            os.environ[name] = value

    def end(self) -> None:
        """Take back the marks, then the registration. What the run started must be gone by now; may be repeated."""
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before = {}
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Run:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


@dataclass(frozen=True, kw_only=True)
class CleanReport:
    """What `clean` found and did. `spared` are marked shells that users opened themselves; `stuck` should be empty."""

    runs: tuple[str, ...] = ()
    processes: tuple[Process, ...] = ()
    namespaces: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    alive: tuple[str, ...] = ()
    spared: tuple[Process, ...] = ()
    stuck: tuple[int, ...] = ()


def is_removable(process: Process, *, own: Process, session: int | None) -> bool:
    """Whether a marked process of a dead run (whose runner was in `session`, if that is known) should be ended.

    Everything in a namespace that the run made. In the caller's own network namespace: helpers of the runner. A shell
    with a terminal and a session of its own, which somebody opened from within the run's environment, is theirs.
    """
    if process.net_namespace != own.net_namespace:
        return True
    return not process.has_terminal or process.session == session


def _dead(processes: Iterable[Process], records: dict[str, RunRecord]) -> Iterable[Process]:
    """The processes of runs whose runner is gone, by the registry and by the mark they carry themselves.

    Not the runner of another run: it carries the marks of a dead one if it was started from that one's environment.
    """
    processes = list(processes)
    marked = (Runner.parse(process.marks.get(RUNNER_MARK, "")) for process in processes)
    runners = {runner for runner in marked if runner is not None} | {record.runner for record in records.values()}
    alive = {runner for runner in runners if runner.is_alive()}
    identities = {(runner.pid, runner.start_ticks) for runner in alive}
    for process in processes:
        run, runner = process.marks.get(RUN_MARK), Runner.parse(process.marks.get(RUNNER_MARK, ""))
        known = {runner, records[run].runner} - {None} if run in records else {runner} - {None}
        if run is not None and known and not known & alive and process.identity not in identities:
            yield process


def clean(*, registry: Path = REGISTRY) -> CleanReport:
    """Remove what dead runs left: processes, with them their namespaces and all that is in those, and files.

    A run is dead when its runner is. Runs that are alive are left alone, and so are processes in other pid namespaces
    (containers), of whose runners nothing can be said here. May be run at any time, also twice at once.
    """
    own = read_process(os.getpid(), prefix=MARK)
    assert own is not None  # it is running this
    family = ancestors(own.pid)  # it may have been started from within a dead run's environment
    ended: dict[tuple[int, int], Process] = {}
    spared: dict[tuple[int, int], Process] = {}
    deadline = time.monotonic() + _CLEAN_TIMEOUT_S
    while time.monotonic() < deadline:
        seen = [process for process in marked_processes(MARK) if process.pid_namespace == own.pid_namespace]
        records = _records(registry)  # after the look at the processes: a run is registered before it starts one
        found = []
        for process in _dead(seen, records):
            record = records.get(process.marks[RUN_MARK])
            if process.pid not in family and is_removable(process, own=own, session=record.session if record else None):
                found.append(process)
            else:
                spared[process.identity] = process
        if not found:
            break
        ended.update((process.identity, process) for process in end_processes(found))

    namespaces = {process.net_namespace for process in ended.values()} - {own.net_namespace}
    stuck = _wait_until_unused(namespaces)
    runs = {process.marks[RUN_MARK] for process in ended.values()}
    files = []
    for folder in sorted(registry.iterdir()) if registry.is_dir() else []:
        runner = _runner_of(folder)
        if runner is not None and not runner.is_alive():
            if not folder.name.startswith("."):
                runs.add(folder.name)
            record = read_record(folder)
            if record is not None and record.output and record.is_output_temporary:
                files += _remove(Path(record.output))
            files += _remove(folder)
    return CleanReport(
        runs=tuple(sorted(runs)),
        processes=tuple(ended.values()),
        namespaces=tuple(sorted(namespaces)),
        files=tuple(files),
        alive=tuple(sorted(run for run, record in _records(registry).items() if record.runner.is_alive())),
        spared=tuple(spared.values()),
        stuck=tuple(stuck),
    )


def _remove(folder: Path) -> list[str]:
    """Remove a folder with all that is in it; what that was."""
    if not folder.is_dir() or folder.is_symlink():
        return []
    files = [str(path) for path in sorted(folder.rglob("*"), reverse=True)] + [str(folder)]
    shutil.rmtree(folder, ignore_errors=True)
    return files


def _records(registry: Path) -> dict[str, RunRecord]:
    folders = list(registry.iterdir()) if registry.is_dir() else []
    records = (read_record(folder) for folder in folders if not folder.name.startswith("."))
    return {record.id: record for record in records if record is not None}


def _runner_of(folder: Path) -> Runner | None:
    """Whose folder this is; for a draft its name says so. None for what is not ours to judge."""
    if folder.name.startswith("."):
        return Runner.parse(folder.name.partition(":")[2])
    record = read_record(folder)
    return record.runner if record else None


def _wait_until_unused(namespaces: set[str]) -> list[int]:
    deadline = time.monotonic() + _CLEAN_TIMEOUT_S
    while namespaces and (users := users_of(namespaces)):
        if time.monotonic() > deadline:
            return users
        time.sleep(0.01)
    return []
