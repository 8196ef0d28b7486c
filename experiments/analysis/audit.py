"""The audit of one trial, from its raw records: the outage of a client, and what other methods make of it."""

from __future__ import annotations

import numpy as np

from unnoticed.errors import RecordError
from unnoticed.experiments.analysis.downtime import Downtime
from unnoticed.experiments.analysis.raw import GUEST_STREAM, RawRecords
from unnoticed.experiments.planning.grid import Trial
from unnoticed.probes.availability import Availability
from unnoticed.probes.outages import Outage
from unnoticed.probes.published_methods import METHODS, figures
from unnoticed.probes.samples import NEVER, Samples
from unnoticed.probes.stalls import overlap_ns
from unnoticed.probes.tools import TOOLS, output_name
from unnoticed.results.audit import Audit, Entry, Truth
from unnoticed.results.schema import empty

_OF_USERS = {
    "request-latency": (
        "longest request",
        "longest wait, from when it was meant to be sent",
        "TCP rounds an outage up to its retransmission schedule, and a quick retransmission hides a part of it",
    ),
    "new-connection": (
        "new connection",
        "longest wait for a new TCP connection",
        "a lost SYN is repeated after 1 s, then 2 s, however short the outage was",
    ),
}
NOT_QEMU = "QEMU's own downtime is not here: this guest is a process, which QEMU did not move."


def audit_trial(trial: Trial, raw: RawRecords, *, client: str | None = None) -> Audit:
    """The audit for `client`. Raises RecordError.

    By default for the one with tools of others beside its probes, or else for that which was longest without answers.
    """
    downtime = Downtime(raw, empty("retransmits"))  # what was felt, not why
    felt = {one.client: one.outage for one in downtime.felt}
    worst = max(felt, key=lambda name: felt[name].outage_ns)
    chosen = client or (raw.clients[0] if raw.settings.clients.tool_names else worst)
    outage, probe = felt[chosen], _judged(raw, chosen)
    path = Availability(probe)
    return Audit(
        trial_id=trial.id,
        case=trial.case,
        client=chosen,
        truth=Truth(
            outage_ns=outage.outage_ns,
            low_ns=outage.low_ns,
            high_ns=outage.high_ns,
            start_ns=outage.start_ns,
            end_ns=outage.end_ns,
        ),
        entries=(
            *_of_hypervisor(raw),
            *_published(path, outage),
            *_of_users(downtime, chosen),
            *_of_tools(raw, chosen),
        ),
        absent=(NOT_QEMU, *_absent_tools(raw, chosen)),
        paused_ns=raw.migration.paused_ns,
        sent_ns=probe.sent_ns,
        answered_ns=probe.answered_ns,
        guessed=_guessed(path),
        stalled_ns=_stalled_ns(downtime, outage),
    )


def _judged(raw: RawRecords, client: str) -> Samples:
    """A client's probes in the time that is judged; an answer after it (the bench may have helped) is none."""
    until_ns = raw.phase_ns("quiesce")
    probe = raw.probe(client, GUEST_STREAM).between(0, until_ns)
    return Samples(
        intended_ns=probe.intended_ns,
        sent_ns=probe.sent_ns,
        answered_ns=np.where(probe.answered_ns < until_ns, probe.answered_ns, NEVER),
        period_ns=probe.period_ns,
    )


def _stalled_ns(downtime: Downtime, outage: Outage) -> int:
    """For how long of an outage the machine stood still."""
    if outage.start_ns is None:
        return 0
    return overlap_ns(downtime.stalls, from_ns=outage.start_ns, to_ns=outage.start_ns + outage.outage_ns)


def _guessed(path: Availability) -> float:
    """The share of the record's time in which no probe of ours was sent within a period."""
    if not len(path.samples):
        return 0.0
    return float(path.is_guess(np.arange(path.from_ns, path.to_ns, path.samples.period_ns // 2)).mean())


def _of_hypervisor(raw: RawRecords) -> list[Entry]:
    blackout_ns = raw.migration.blackout_ns
    if blackout_ns is None:
        return []
    why = "from the pause to the resume: tables that point elsewhere, queues and timers are not in it"
    rule = "the agents' pause to resume"
    return [Entry(group="hypervisor", name="blackout", rule=rule, why=why, figures_ns=(blackout_ns,))]


def _published(path: Availability, outage: Outage) -> list[Entry]:
    not_over = " (the outage was not over: it had no answer to see the end by)" if outage.censored else ""
    entries = []
    for method in METHODS:
        why = method.why + (not_over if method.needs_answers else "")
        reported = figures(method, path).figures
        entries.append(Entry(group="published", name=method.name, rule=method.rule, why=why, figures_ns=reported))
    return entries


def _of_users(downtime: Downtime, client: str) -> list[Entry]:
    table = downtime.outages_table()
    rows = table[table["client"] == client].set_index("estimator")["outage_ns"]
    return [
        Entry(group="users", name=name, rule=rule, why=why, figures_ns=(int(rows[estimator]),))
        for estimator, (name, rule, why) in _OF_USERS.items()
        if estimator in rows
    ]


def _of_tools(raw: RawRecords, client: str) -> list[Entry]:
    """What the tools at this client printed. Raises RecordError where one left nothing to read."""
    entries = []
    for name in _tools_at(raw, client):
        tool, path = TOOLS[name], raw.folder / output_name(client, name)
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise RecordError(
                f"{path} cannot be read ({error.strerror}): {name} was to be run in this trial."
            ) from error
        figure = tool.figure(text)
        entries.append(Entry(group="tool", name=f"{name}, run", rule=tool.rule, why=tool.why, figures_ns=(figure,)))
    return entries


def _absent_tools(raw: RawRecords, client: str) -> list[str]:
    left = [name for name in TOOLS if name not in _tools_at(raw, client)]
    said = [f"Not run beside our probes: {', '.join(left)} (clients.tools of the plan)."] if left else []
    if len(left) < len(TOOLS):
        said.append(
            "Tools ran at this client: their own traffic is part of the trial; it keeps switches and guest busy."
        )
    return said


def _tools_at(raw: RawRecords, client: str) -> tuple[str, ...]:
    return raw.settings.clients.tool_names if client == raw.clients[0] else ()
