import io

from unnoticed.experiments.lab.console import Console


def said(line):
    """What the console says to one line, without a lab."""
    console = Console.__new__(Console)
    console.stdout = io.StringIO()
    console.do_help(line)
    return console.stdout.getvalue()


def test_help_begins_with_the_lab_s_own_commands_and_ends_with_mininet_s_by_name():
    own, _, others = said("").partition("Mininet's")
    for name in ("migrate", "status", "watch", "tables", "probe", "link", "wireshark", "exit"):
        assert f"\n  {name} " in f"\n{own}", name
    listed = others.partition(": ")[2].partition(".")[0].replace(",", " ").split()
    assert {"nodes", "net", "dump", "pingall", "iperf", "py"} <= set(listed)
    assert not {"EOF", "migrate", "link", "help"} & set(listed)
    assert "mininet>" not in said("")  # its examples name hosts that are not here


def test_help_on_one_command_is_its_own_line():
    assert said("migrate").startswith("Move the guest to the host where it is not")
    assert said("pingall").strip()
    assert "No help on frobnicate" in said("frobnicate")
