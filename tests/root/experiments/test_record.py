"""unnoticed record: a program's written pages become a file, however the recording ends."""

import json
import os
import signal
import subprocess
import sys

import pytest

from unnoticed.agents.trace import read_trace

pytestmark = pytest.mark.root

RECORD = (sys.executable, "-m", "unnoticed", "record")
# Writes 300 pages over and over, for good or for a while.
BUSY = """
import sys
memory = bytearray(300 << 12)
for number in range(int(sys.argv[1])):
    for page in range(300):
        memory[page << 12] = number % 256
"""
FOR_GOOD = str(10**9)


def recorded(*options, argv, **given):
    command = [*RECORD, *options, "--", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **given)


def test_a_program_is_recorded_for_as_long_as_asked_and_then_ended(tmp_path):
    path = tmp_path / "busy.trace"
    code = f"import os, pathlib; pathlib.Path('pid').write_text(str(os.getpid()))\n{BUSY}"
    options = ("--interval", "20 ms", "--after", "100 ms", "--seconds", "0.6", "--out", str(path), "--json")
    done = recorded(*options, argv=[sys.executable, "-c", code, FOR_GOOD], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found, trace = json.loads(done.stdout), read_trace(path)
    assert (found["intervals"], found["pages"], found["bytes"]) == (30, trace.pages, path.stat().st_size)
    assert trace.pages >= 300
    assert found["dirty_pages_most"] >= 300
    assert (trace.tracker, trace.interval_ns) == (found["tracker"], 20_000_000)
    assert trace.about["command"][0] == sys.executable
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_was_recorded_until_the_program_ended_or_somebody_interrupted_is_kept(tmp_path):
    options = ("--interval", "20 ms", "--out", "ended.trace")
    assert recorded(*options, argv=[sys.executable, "-c", BUSY, "3000"], cwd=tmp_path).returncode == 0
    assert read_trace(tmp_path / "ended.trace").pages >= 300
    argv = [*RECORD, "--interval", "20 ms", "--out", "cut.trace", "--", sys.executable, "-c", BUSY, FOR_GOOD]
    with subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert "runs (process" in process.stderr.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert read_trace(tmp_path / "cut.trace").pages >= 300


@pytest.mark.parametrize(
    ("options", "argv", "code", "sentence"),
    [
        ((), ["./nothing"], 2, "./nothing: this cannot be started (No such file or directory)."),
        (("--interval", "1 us"), ["true"], 2, '--interval: "1 us" is not from 1 ms to 1 min.'),
        (("--seconds", "100000"), ["true"], 2, "--seconds 100000: a trace holds 100000 intervals"),
        (("--out", "no/where.trace"), ["true"], 2, "--out no/where.trace: nothing can be written in no."),
        (("--after", "10 s"), ["true"], 1, "There is no trace of true: no page was written."),
        (("--seconds", "1"), ["nice", "sleep", "60"], 1, "There is no trace of nice: it has become another program, /"),
    ],
)
def test_what_makes_no_trace_is_said_in_a_sentence(tmp_path, options, argv, code, sentence):
    done = recorded(*options, argv=argv, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert list(tmp_path.iterdir()) == []
