"""What a TCP sender did and what it could know, followed through a capture taken at it: one compiled loop per flow.

Linux's sender (net/ipv4/tcp_input.c, tcp_output.c, tcp_timer.c, tcp_recovery.c) retransmits in one of three congestion
states: OPEN, RECOVERY (fast), LOSS (after a timeout). The wire does not say which, but all that moves it from one to
another passes there, so that it can be followed: a timeout is a silence that the first unacknowledged byte ends;
RECOVERY ends when all is acknowledged that was in flight at its beginning; LOSS likewise, or sooner:
- F-RTO (RFC 5682): acknowledged was what had never been repeated, so the timeout was spurious;
- Eifel (RFC 3522): the acknowledgement echoes a time stamp older than the first retransmission;
- DSACK (RFC 3708): all that was repeated had arrived already;
- RACK (RFC 8985): a retransmission is lost as well, since what was sent later has arrived: RECOVERY.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unnoticed.compiled import compiled
from unnoticed.probes.columns import I64, U8, U16, U32, Bool
from unnoticed.probes.flow_kernels import INDEX, MARKS, PAYLOAD, SEQUENCES, STAMPS, TIME_NS

RTO, FAST, TLP = range(3)
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_OPEN, _RECOVERY, _LOSS = range(3)
_SACKED, _REPEATED = 1, 2  # flags of a piece
_WORD = 0xFFFFFFFF
_NEVER = np.int64(-(1 << 62))

# What is known of the sender. Positions are bytes from its first frame's sequence number, times nanoseconds.
(
    _STATE,
    _UNA,  # all below is acknowledged
    _HIGH,  # the highest position sent
    _GOAL,  # high_seq: the state ends when all below is acknowledged
    _PROBED,  # tlp_high_seq: no second loss probe before this is acknowledged and more; _NEVER: none is out
    _TOP,  # the highest SACKed position
    _DUPLICATES,  # acknowledgements in a row that repeat one another
    _DUPLICATE_NS,  # when the last of these came
    _NEWS_NS,  # when an acknowledgement last wound up the timer
    _TIMEOUTS,  # how often the timer ran out
    _IN_A_ROW,  # of these without an acknowledgement of anything new
    _FRTO,  # a timeout may turn out to be spurious
    _FRTO_ASKS,  # and the next frame tells whether the sender tries to find out: it is a new one
    _MARKER,  # undo_marker: una at the beginning of the state; _NEVER: cannot be undone
    _UNDO,  # undo_retrans: segments repeated since then and not reported as duplicates
    _STAMPED,  # whether the first retransmission since then has a time stamp
    _STAMP,  # which
    _HEAD,  # the pieces in flight: from here
    _TAIL,  # to here
    _RACK_NS,  # when what was delivered was sent, the latest so far
    _RACK_RTT_NS,  # and how long it took
    _LEAST_RTT_NS,
    _FRONT,  # the first retransmission that may be in flight
    _DOUBT,  # the retransmission that began RECOVERY, if the timer was due as well; _NEVER: it was not
    _FIELDS,
) = range(25)


@compiled
def _apart(a: Any, b: Any) -> Any:
    """The serial difference of two sequence numbers (RFC 1982)."""
    return ((np.int64(a) - np.int64(b) + 0x80000000) & 0xFFFFFFFF) - 0x80000000


@compiled
def _find(ends: I64, head: int, tail: int, position: int) -> Any:
    """The first piece that ends above a position."""
    while head < tail:
        middle = (head + tail) >> 1
        if ends[middle] > position:
            tail = middle
        else:
            head = middle + 1
    return head


@compiled
def _delivered(s: I64, sent_ns: int, repeated: bool, now: int) -> None:
    """A piece has arrived (tcp_rack_advance)."""
    took = now - sent_ns
    if repeated:
        if took < s[_LEAST_RTT_NS]:  # it may have been the original
            return
    else:
        s[_LEAST_RTT_NS] = min(s[_LEAST_RTT_NS], took)
    if sent_ns > s[_RACK_NS]:
        s[_RACK_NS], s[_RACK_RTT_NS] = sent_ns, took


@compiled
def _time_out(s: I64, again: int) -> None:
    """tcp_enter_loss; `again` is how many retransmissions there were before."""
    fresh = s[_STATE] == _OPEN
    if fresh or s[_GOAL] <= s[_UNA] or (s[_STATE] == _LOSS and s[_IN_A_ROW] == 0):
        s[_MARKER] = s[_UNA]
        s[_UNDO] = 1 if s[_PROBED] != _NEVER else -1
    s[_FRTO] = fresh or s[_IN_A_ROW] > 0
    s[_FRTO_ASKS] = 0
    s[_IN_A_ROW] += 1
    s[_TIMEOUTS] += 1
    s[_STATE], s[_GOAL] = _LOSS, s[_HIGH]
    s[_DUPLICATES] = 0
    s[_FRONT] = again


@compiled
def _recover(s: I64) -> None:
    """tcp_enter_recovery."""
    s[_MARKER] = s[_UNA]
    s[_UNDO] = 1 if s[_PROBED] != _NEVER else -1
    s[_STATE], s[_GOAL], s[_PROBED] = _RECOVERY, s[_HIGH], _NEVER


@compiled
def _open(s: I64) -> None:
    s[_STATE], s[_MARKER], s[_STAMPED], s[_FRTO] = _OPEN, _NEVER, 0, 0
    s[_DUPLICATES], s[_DOUBT] = 0, _NEVER


@compiled
def _type(s: I64, start: int, end: int, sent_ns: int, now: int, again: int, sack: bool, quiet_ns: int) -> Any:
    """Of a retransmission, by what the sender knew; notes what follows from it for the sender."""
    head, tail = start <= s[_UNA], end >= s[_HIGH]
    silence_ns = now - max(sent_ns, s[_NEWS_NS])
    # __tcp_set_rto: a round trip and the least RTO, or more.
    quiet = silence_ns >= quiet_ns + (s[_LEAST_RTT_NS] if s[_LEAST_RTT_NS] < -_NEVER else 0)
    if s[_STATE] == _LOSS:
        if head and quiet:
            _time_out(s, again)
        return RTO
    known_lost = s[_TOP] > max(start, s[_UNA]) or (not sack and s[_DUPLICATES] >= 3)
    may_probe = sack and tail and not known_lost and s[_STATE] == _OPEN and s[_PROBED] == _NEVER
    if may_probe:
        s[_PROBED] = s[_HIGH]
        return TLP
    # Evidence of loss goes before the timer, but only once: with SACK, if what arrived was sent later (RACK); without,
    # if it is fresh, since more than three duplicates may be asked for after reordering.
    evident = known_lost and (s[_RACK_NS] > sent_ns if sack else 2 * (now - s[_DUPLICATE_NS]) <= s[_LEAST_RTT_NS])
    if head and quiet and (not evident or s[_STATE] == _RECOVERY):
        _time_out(s, again)
        return RTO
    # No timer is shorter than a round trip.
    if known_lost or s[_STATE] == _RECOVERY or not head or silence_ns <= s[_LEAST_RTT_NS]:
        if s[_STATE] == _OPEN:
            _recover(s)
            s[_DOUBT] = again if head and quiet else _NEVER
        return FAST
    _time_out(s, again)
    return RTO


@compiled
def _lost_again(
    s: I64, starts: I64, ends: I64, sents: I64, kinds: U8, first: I64, last: I64, times: I64, again: int, now: int
) -> Any:
    """Whether a retransmission is known to be lost (tcp_rack_detect_loss)."""
    while s[_FRONT] < again:
        k = s[_FRONT]
        if s[_RACK_NS] <= times[k]:
            return False
        at = _find(ends, s[_HEAD], s[_TAIL], max(first[k], s[_UNA]))
        while at < s[_TAIL] and starts[at] < last[k]:
            if sents[at] == times[k] and kinds[at] & _SACKED == 0:
                return now - times[k] >= s[_RACK_RTT_NS]
            at += 1
        s[_FRONT] += 1
    return False


@compiled
def _hear(
    s: I64, advanced: bool, news: bool, original: bool, repeated: bool, older: bool, lost: bool, sack: bool
) -> None:
    """tcp_fastretrans_alert, as far as it changes the state."""
    past = s[_UNA] >= s[_GOAL] if sack else s[_UNA] > s[_GOAL]
    may_undo = s[_MARKER] != _NEVER and (s[_UNDO] == 0 or older)
    if s[_STATE] == _LOSS:
        if advanced and may_undo:
            _open(s)
            return
        if s[_FRTO]:
            if original:
                _open(s)
                return
            if s[_HIGH] > s[_GOAL]:
                if news or repeated:
                    s[_FRTO] = 0
            elif advanced and s[_UNA] < s[_GOAL]:
                s[_GOAL] = s[_HIGH]
                s[_FRTO_ASKS] = 1
        if past:
            _open(s)
        elif lost:
            _recover(s)
    elif s[_STATE] == _RECOVERY and (past or (may_undo and (advanced or s[_UNDO] == 0))):
        _open(s)


@compiled
def survey(sent: I64, received: I64, mss: U16, sack_permitted: Bool) -> tuple[int, bool, bool]:
    """(the least MSS that a SYN of either end offers, 0: none did; SACK may be used; the sender uses time stamps)."""
    least: Any = np.int64(0)
    sack, stamps = True, False
    for part in range(2):
        rows = sent if part == 0 else received
        for k in range(len(rows)):
            marks = rows[k, MARKS]
            if marks & _SYN:
                i = rows[k, INDEX]
                if mss[i] > 0 and (least == 0 or mss[i] < least):
                    least = np.int64(mss[i])
                sack &= sack_permitted[i]
            if part == 0 and marks >> 40:
                stamps = True
    return least, sack, stamps


@compiled
def follow(
    sent: I64,
    received: I64,
    sack_edges: U32,
    mss: int,
    sack: bool,
    quiet_ns: int,
    starts: I64,
    ends: I64,
    sents: I64,
    kinds: U8,
    first: I64,
    last: I64,
    times: I64,
    again_row: I64,
    again_length: I64,
    again_segments: I64,
    again_type: U8,
    again_timeout: U8,
    again_spurious: U8,
) -> tuple[int, int, int, int]:
    """Follow a flow: what its sender sent, and what came back, both as flow_kernels.sort_segments has them.

    Fills the columns `again_...` with one entry per retransmission, and returns (retransmissions, segments sent, bytes
    sent once at least, probes). They and `first`, `last`, `times` must have room for all of `sent`. `starts`, `ends`,
    `sents`, `kinds` are room for what is in flight at once, a segment each; returns -1 retransmissions if that is too
    small. (Arrays that are replaced in here by taller ones would cost more than all else: their references would be
    counted in each turn of the loop.)
    """
    s = np.zeros(_FIELDS, np.int64)
    s[_PROBED] = s[_TOP] = s[_NEWS_NS] = s[_MARKER] = s[_RACK_NS] = s[_DOUBT] = _NEVER
    s[_LEAST_RTT_NS] = -_NEVER
    blocks, before = np.zeros((4, 2), np.int64), np.zeros((4, 2), np.int64)
    again = segments = new_bytes = probes = 0
    heard = asked = answers = False
    known_before = np.int64(0)
    closed, last_window = False, np.int64(-1)
    pushed, pushed_first = _NEVER, False
    position, number = np.int64(0), np.int64(-1)
    base = np.int64(0)
    for k in range(len(sent)):
        if sent[k, MARKS] & _RST == 0:
            base = sent[k, SEQUENCES] & _WORD
            break
    next_sent, next_received = 0, 0
    while next_sent < len(sent) or next_received < len(received):
        if next_sent == len(sent) or (
            next_received < len(received) and received[next_received, INDEX] < sent[next_sent, INDEX]
        ):
            at_row = next_received
            next_received += 1
            marks, now = received[at_row, MARKS], received[at_row, TIME_NS]
            if marks & (_RST | _ACK) != _ACK:  # a RST takes its number from elsewhere
                asked |= marks & (_RST | _SYN) == _SYN
                continue
            window = (marks >> 16) & 0xFFFF
            anchor = (base + s[_HIGH]) & _WORD
            said = s[_HIGH] - _apart(anchor, (received[at_row, SEQUENCES] >> 32) & _WORD)
            # RFC 2883: the first block is a DSACK if it is acknowledged already, or lies within the second.
            count = (marks >> 32) & 0xFF
            i = received[at_row, INDEX]
            for k in range(count):
                blocks[k, 0] = s[_HIGH] - _apart(anchor, sack_edges[i, k, 0])
                blocks[k, 1] = s[_HIGH] - _apart(anchor, sack_edges[i, k, 1])
            duplicate = count > 0 and (
                blocks[0, 1] <= said or (count > 1 and blocks[0, 0] >= blocks[1, 0] and blocks[0, 1] <= blocks[1, 1])
            )
            if duplicate:
                left, right = blocks[0, 0], blocks[0, 1]
                # It names the last ones of its bytes. One DSACK can name several frames: the receiver's kernel joins
                # those that arrive together.
                unnamed, k = right - left, again - 1
                while k >= 0 and unnamed > 0:
                    common = min(last[k], right) - max(first[k], left)
                    if common > 0 and again_spurious[k] == 0:
                        again_spurious[k] = 1
                        unnamed -= common
                    k -= 1
                if s[_UNDO] > 0 and right > s[_MARKER] != _NEVER:
                    s[_UNDO] = max(s[_UNDO] - max(-(-(right - left) // mss), 1), 0)
            news = original = False
            for k in range(1 if duplicate else 0, count):
                left, right = max(blocks[k, 0], s[_UNA]), blocks[k, 1]
                s[_TOP] = max(s[_TOP], right)
                while left < right:
                    # What the acknowledgement before has said is known.
                    until, known = right, False
                    for other in range(known_before):
                        if before[other, 0] <= left < before[other, 1]:
                            left, known = before[other, 1], True
                        elif left < before[other, 0] < until:
                            until = before[other, 0]
                    if known:
                        continue
                    at = _find(ends, s[_HEAD], s[_TAIL], left)
                    while at < s[_TAIL] and ends[at] <= until:
                        if kinds[at] & _SACKED == 0:
                            news = True
                            if kinds[at] & _REPEATED == 0 and ends[at] <= s[_GOAL]:
                                original = True
                            # tcp_clean_rtx_queue: what was sent after the head's last try does not wind the timer up.
                            if sents[at] < sents[s[_HEAD]]:
                                s[_NEWS_NS] = now
                            _delivered(s, sents[at], kinds[at] & _REPEATED != 0, now)
                            kinds[at] |= _SACKED
                        at += 1
                    left = until
            for k in range(max(count, known_before)):
                shown = 1 if duplicate else 0
                for edge in range(2):
                    before[k, edge] = blocks[k, edge] if shown <= k < count else 0
            known_before = count
            advanced = heard and said > s[_UNA]
            if not heard:
                s[_UNA], heard = said, True
            repeated = not advanced and received[at_row, PAYLOAD] == 0 and window == last_window and not news
            if advanced:
                s[_UNA] = said
                s[_IN_A_ROW] = s[_DUPLICATES] = 0
            elif repeated:
                s[_DUPLICATES] += 1
                s[_DUPLICATE_NS] = now
            if s[_PROBED] != _NEVER and said >= s[_PROBED] and (said > s[_PROBED] or duplicate or repeated):
                s[_PROBED] = _NEVER  # tcp_process_tlp_ack
            ambiguous = False
            while s[_HEAD] < s[_TAIL] and ends[s[_HEAD]] <= s[_UNA]:
                at = s[_HEAD]
                ambiguous |= not sack and kinds[at] & _REPEATED != 0
                if kinds[at] & _SACKED == 0:
                    if kinds[at] & _REPEATED == 0 and ends[at] <= s[_GOAL]:
                        original = True
                    _delivered(s, sents[at], kinds[at] & _REPEATED != 0, now)
                s[_HEAD] += 1
            original &= not ambiguous  # without SACK, the other end may have had it and waited for what was repeated
            if s[_HEAD] == s[_TAIL]:
                s[_HEAD] = s[_TAIL] = 0
            if advanced:
                s[_NEWS_NS] = now
            closed, last_window = window == 0, window
            if s[_STATE] != _OPEN:
                older = (
                    marks >> 40 != 0
                    and s[_STAMPED] != 0
                    and _apart((received[at_row, STAMPS] >> 32) & _WORD, s[_STAMP]) < 0
                )
                lost = (
                    s[_STATE] == _LOSS
                    and sack
                    and _lost_again(s, starts, ends, sents, kinds, first, last, times, again, now)
                )
                _hear(s, advanced, news, original, repeated, older, lost, sack)
            continue
        at_row = next_sent
        next_sent += 1
        marks, now = sent[at_row, MARKS], sent[at_row, TIME_NS]
        if marks & _RST:
            continue
        said = sent[at_row, SEQUENCES] & _WORD
        if number >= 0:
            position += _apart(said, number)
        number = said
        start: Any = position
        size = sent[at_row, PAYLOAD]
        end = start + size + (marks & _SYN != 0) + (marks & _FIN != 0)
        # Keep-alives and window probes (RFC 9293 sections 3.8.4 and 3.8.6.1): one byte, or none, just below what is
        # acknowledged; or the one byte behind a closed window, again.
        if heard and size <= 1 and end - start == size:
            probe = start == s[_UNA] - 1
            if closed and size == 1 and start == s[_UNA]:
                if pushed == start:
                    probe |= pushed_first
                else:
                    # Its first transmission is new data, and was sent against a closed window as well.
                    pushed, pushed_first = start, start >= s[_HIGH]
            if probe:
                probes += 1
                continue
        if end == start:
            continue
        if marks & _SYN:
            answers, asked = asked, False
        unit: Any = max(mss - ((marks >> 8) & 0xFF), 1)
        if start < s[_HIGH]:
            old: Any = max(min(size, s[_HIGH] - start), 0)
            cut = max(-(-old // unit), 1)
            at = _find(ends, s[_HEAD], s[_TAIL], start)
            sent_ns = sents[at] if at < s[_TAIL] and starts[at] <= start else now
            timeouts = s[_TIMEOUTS]
            if marks & _SYN:
                kind = RTO
                s[_TIMEOUTS] += not answers  # or else the other end's timer ran out
            else:
                kind = _type(s, start, end, sent_ns, now, again, sack, quiet_ns)
                if kind == FAST and sack and 0 <= s[_DOUBT] < again and start >= s[_TOP]:
                    # RECOVERY repeats only what something later has overtaken: it was the timer after all.
                    kind = RTO
                    again_type[s[_DOUBT] : again] = RTO
                    again_timeout[s[_DOUBT]] = 1
                    s[_STATE], s[_FRTO], s[_DOUBT] = _LOSS, 0, _NEVER
            first[again], last[again], times[again] = start, end, now
            again_row[again], again_length[again], again_segments[again] = sent[at_row, INDEX], old, cut
            again_type[again], again_timeout[again] = kind, s[_TIMEOUTS] > timeouts
            again_spurious[again] = 0
            again += 1
            if kind != TLP:
                s[_UNDO] = max(s[_UNDO], 0) + cut
                if s[_STAMPED] == 0 and marks >> 40:
                    s[_STAMPED], s[_STAMP] = 1, sent[at_row, STAMPS] & _WORD
            while at < s[_TAIL] and starts[at] < end:
                kinds[at] |= _REPEATED
                sents[at] = now
                at += 1
            segments += cut
            new_bytes += size - old
        else:
            segments += max(-(-size // unit), 1)
            new_bytes += size
        if s[_FRTO_ASKS]:  # RFC 5682 step 2b, or else the conventional recovery
            s[_FRTO_ASKS] = 0
            if start < s[_HIGH]:
                s[_FRTO] = 0
        if end > s[_HIGH]:
            start = max(start, s[_HIGH])
            s[_HIGH] = end
            if len(received) == 0:
                continue
            while start < end:
                if s[_TAIL] == len(kinds):
                    if 2 * s[_HEAD] < len(kinds):
                        return -1, 0, 0, 0
                    s[_TAIL] -= s[_HEAD]
                    for to in range(s[_TAIL]):
                        of = s[_HEAD] + to
                        starts[to], ends[to], sents[to], kinds[to] = starts[of], ends[of], sents[of], kinds[of]
                    s[_HEAD] = 0
                at = s[_TAIL]
                starts[at], ends[at], sents[at] = start, min(start + unit, end), now
                if end - ends[at] == 1 and marks & _FIN:
                    ends[at] = end
                kinds[at] = 0
                start = ends[at]
                s[_TAIL] += 1
    return again, segments, new_bytes, probes
