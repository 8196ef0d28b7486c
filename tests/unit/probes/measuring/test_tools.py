"""What each tool prints, read: on outputs of real ones (tests/golden/tools/README.md says how they were made)."""

from pathlib import Path

import pytest

from unnoticed.probes.tools import ENDED_EARLY, TOOLS, output_name

GOLDEN = Path(__file__).parents[3] / "golden/tools"
MS = 1_000_000


@pytest.mark.parametrize(
    ("tool", "figure_ns"),
    [
        ("fping", 40 * MS),
        ("redis-benchmark", 33_247_000),
        ("wrk", 33_210_000),
        ("sockperf", 4_139_532),
        ("iperf3", 8 * MS),
    ],
)
def test_the_figure_of_a_real_output_is_read(tool, figure_ns):
    assert TOOLS[tool].figure((GOLDEN / f"{tool}.txt").read_text()) == figure_ns


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    "text", ["", "10.77.0.100: No route to host\n", "\x1b[31mError\x1b[0m\n", '{"end": {}, "error": "gone"}']
)
def test_a_tool_that_printed_no_figure_has_none(tool, text):
    assert TOOLS[tool].figure(text) is None


@pytest.mark.parametrize(
    ("written", "figure_ns"),
    [("1.28us", 1280), ("33.21ms", 33_210_000), ("1.50s", 1_500_000_000), ("1.00m", 60_000_000_000)],
)
def test_the_units_of_wrk_are_those_it_writes(written, figure_ns):
    text = (
        f"  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency   304.74us    1.28ms  {written}   97.01%\n"
    )
    assert TOOLS["wrk"].figure(text) == figure_ns


def test_the_longest_of_all_loops_of_redis_benchmark_counts_and_an_unfinished_one_does_not():
    line = '"PING_MBULK","13698.63","0.070","0.040","0.063","0.127","0.175","{}"\n'
    text = '"test","rps","max_latency_ms"\n' + line.format("0.511") + line.format("120.063") + line.format("0.4")
    assert TOOLS["redis-benchmark"].figure(text + '"PING_MBULK","13698.63","999') == 120_063_000


def test_the_losses_of_an_iperf3_that_ended_before_the_trial_are_no_figure():
    text = (GOLDEN / "iperf3.txt").read_text()
    assert TOOLS["iperf3"].figure("warning: something\n" + text) == TOOLS["iperf3"].figure(text)
    assert TOOLS["iperf3"].figure(f"{text}\n{ENDED_EARLY}\n") is None
    assert TOOLS["iperf3"].figure(text[: len(text) // 2]) is None


def test_a_tool_that_is_not_interrupted_is_told_for_how_long_to_run():
    for tool in TOOLS.values():
        assert tool.is_interrupted or "47" in tool.arguments("10.77.0.100", 47)


def test_every_tool_is_called_with_the_guest_s_address_and_named_with_its_package():
    for name, tool in TOOLS.items():
        arguments = tool.arguments("10.77.0.100", 10)
        assert name in arguments
        assert any("10.77.0.100" in argument for argument in arguments)
        assert tool.package
        assert tool.why


def test_outputs_of_clients_and_tools_do_not_collide():
    names = {output_name(client, tool) for client in ("c1", "c11") for tool in TOOLS}
    assert len(names) == 2 * len(TOOLS)
