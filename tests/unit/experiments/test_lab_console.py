import io
from types import SimpleNamespace

import pytest

from unnoticed.experiments.lab.console import Console
from unnoticed.experiments.lab.refusals import REFUSALS
from unnoticed.topology.quietly import CLI


class Bare(Console):
    """A console without a lab, and what it says."""

    def __init__(self, nodes=()):
        self.stdout, self.mn, self.problem_count, self._sources = io.StringIO(), dict(nodes), 0, []
        self.stdin, self.locals = io.StringIO(), {}
        self._lab = SimpleNamespace(fabric=SimpleNamespace(places=()), address=lambda _place: "10.77.0.100")

    def answer(self, line):
        self.stdout.seek(0)
        self.stdout.truncate()
        self.onecmd(line)
        return self.stdout.getvalue()


def said(line):
    """What help says to one line."""
    return Bare().answer(f"help {line}")


class Broken:
    """A node that cannot do anything, each time for another reason."""

    def __init__(self, error):
        self._error = error

    def sendCmd(self, _line):  # noqa: N802  # Mininet's name
        raise self._error


def test_help_begins_with_the_lab_s_own_commands_and_ends_with_mininet_s_by_name():
    own, _, others = said("").partition("Mininet's")
    for name in ("migrate", "status", "watch", "tables", "probe", "link", "wireshark", "exit"):
        assert f"\n  {name} " in f"\n{own}", name
    listed = others.partition(": ")[2].partition(".")[0].replace(",", " ").split()
    assert {"nodes", "net", "dump", "links", "py"} <= set(listed)
    assert not {"EOF", "migrate", "link", "help"} & set(listed)
    assert "mininet>" not in said("")  # its examples name hosts that are not here


def test_help_on_one_command_is_its_own_line():
    assert said("migrate").startswith("Move the guest to the host where it is not")
    assert said("nodes").strip() == "List all nodes."
    assert "No help on frobnicate" in said("frobnicate")


@pytest.mark.parametrize("line", ["dpctl dump", "iperf c1 control", "iperfudp", "pingall", "switch s1 stop", "wait"])
def test_a_command_that_makes_no_sense_in_a_lab_is_refused_with_what_to_use_instead(line):
    name, console = line.split()[0], Bare()
    assert console.answer(line) == f"{REFUSALS[name]}\n"
    assert ": use " in REFUSALS[name]
    assert console.problem_count == 1
    assert said(name) == f"{REFUSALS[name]}\n"
    listed = said("").partition("Mininet's")[2].replace(",", " ").replace(".", " ").split()
    assert name not in listed
    assert name not in console.completenames(name[:3])
    assert hasattr(CLI, f"do_{name}")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (AssertionError(), "AssertionError"),
        (KeyError("s9"), "KeyError: 's9'"),
        (AttributeError("'NoneType' object\nhas no IP."), "AttributeError: 'NoneType' object has no IP"),
    ],
)
def test_whatever_a_command_raises_is_a_sentence_and_the_lab_goes_on(error, told):
    console = Bare({"c1": Broken(error)})
    assert console.answer("c1 ls") == f"c1: it failed, and the lab goes on ({told}).\n"
    assert console.problem_count == 1


def test_a_command_that_exits_ends_the_lab_as_exit_does():
    console = Bare({"c1": Broken(SystemExit(4))})
    assert console.onecmd("c1 ls") == console.onecmd("exit")
    assert console.stdout.getvalue() == "c1: it exits, and the lab ends (4).\n"
    console = Bare()
    assert not console.postcmd(console.onecmd("help nodes"), "help nodes")
    console.stdin.close()  # as Python's exit() does
    assert console.postcmd(None, "time py exit()")


def test_an_interrupt_of_a_command_is_none_of_its_failures():
    with pytest.raises(KeyboardInterrupt):
        Bare({"c1": Broken(KeyboardInterrupt())}).answer("c1 ls")


def test_a_file_of_commands_is_done_line_by_line_and_may_end_the_lab(tmp_path):
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.write_text("frob  # a comment\n\nhelp nodes\n")
    outer.write_text(f"source {inner}\nfrob again\n")
    console = Bare()
    assert console.answer(f"source {outer}").splitlines() == [
        "There is no command or node 'frob'; help lists the commands.",
        "List all nodes.",
        "There is no command or node 'frob'; help lists the commands.",
    ]
    assert console.problem_count == 2
    inner.write_text("exit\n")
    assert console.onecmd(f"source {outer}") == console.onecmd("exit")


def test_a_file_of_commands_that_cannot_be_read_is_said(tmp_path):
    itself, coded = tmp_path / "itself", tmp_path / "coded"
    itself.write_text(f"source {itself}\n")
    coded.write_bytes(b"\xff\n")
    console = Bare()
    assert console.answer("source nofile") == "source: nofile cannot be read (No such file or directory).\n"
    assert console.answer("source") == "source: name the file whose lines are to be done: source FILE.\n"
    assert console.answer(f"source {coded}") == f"source: {coded} is no text in UTF-8.\n"
    assert console.answer(f"source {itself}") == (
        f"source: {itself} is being read already; a file cannot read itself.\n"
    )
    assert console.problem_count == 4


@pytest.mark.parametrize("seconds", ["abc", "-1", "nan"])
def test_a_watch_lasts_a_number_of_seconds(seconds):
    assert Bare().answer(f"watch {seconds}") == f"watch: '{seconds}' is not a number of seconds.\n"
