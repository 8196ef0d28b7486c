import tomllib

import pytest

from unnoticed.errors import PlanError
from unnoticed.experiments.planning.plan import load_plan, stock_plans, trials

GOOD = """question = "Does anybody notice?"
repeats = 3
seed = 7
[fabric]
link = { rate = "1 Gbit/s" }
[guest]
memory = "256 MiB"
working_set = "48 MiB"
dirty_rate = ["0 MiB/s", "20 MiB/s"]
[clients]
count = 2
download = { connections = 1, rate = "100 Mbit/s" }
[migration]
policy = "tcp-timeout"
[[case]]
name = "announced"
[[case]]
name = "silent"
expect = "gave-up"
migration.announce = "none"
[[clause]]
text = "It is short."
metric = "blackout_ns"
statistic = "max"
at_most = "200 ms"
where = { case = "announced" }
[[budget]]
metric = "integrity"
statistic = "share"
equals = 1
"""


@pytest.fixture
def write(tmp_path):
    def write_plan(text, name="plan.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_plan


def problems_of(path, **given):
    with pytest.raises(PlanError) as refusal:
        load_plan(path, **given)
    return [problem.replace(f"{path}:", "", 1) for problem in refusal.value.problems]


def test_a_good_plan_becomes_settings_in_base_units(write):
    plan = load_plan(write(GOOD))
    assert len(plan.settings) == 4
    assert plan.cases == ("announced", "silent")
    assert plan.factors == ("guest.dirty_rate", "migration.announce")
    settings = plan.settings[0].settings
    assert settings.fabric.link.rate_bit_per_s == 1_000_000_000
    assert settings.guest.memory_bytes == 256 << 20
    assert settings.guest.memory_pages == 65536
    assert settings.clients.download is not None
    assert settings.clients.download.rate_bit_per_s == 100_000_000
    assert settings.clients.upload is None
    assert settings.migration.policy_parameters == {
        "max_rounds": 30,
        "patience": 5,
        "default_rto_ns": 200_000_000,
    }
    assert plan.clauses[0].bound == ("at_most", 200_000_000)
    assert plan.budgets[0].bound == ("equals", 1)


def test_a_plan_with_five_mistakes_shows_all_five_with_line_and_field(write):
    bad = GOOD.replace('memory = "256 MiB"', 'memroy = "256 MiB"').replace('rate = "1 Gbit/s"', 'rate = "1 Gbps"')
    bad = (
        bad.replace("count = 2", 'count = "2"').replace("tcp-timeout", "tcp-timout").replace("blackout_ns", "blackout")
    )
    assert problems_of(write(bad)) == [
        '5: fabric.link.rate: "Gbps" in "1 Gbps" is not a unit here; write "1 Gbit/s".',
        '7: guest.memroy: there is no key "memroy" here; did you mean "memory"?',
        '11: clients.count: "2" is not a whole number (write it without quotes).',
        (
            '14: migration.policy: "tcp-timout" is none of "fixed-rounds", "threshold", "tcp-timeout", "clark", '
            '"downtime-limit" or "deadline"; did you mean "tcp-timeout"?'
        ),
        '23: [[clause]] 1 metric: "blackout" is not a metric of a trial; did you mean "blackout_ns"?',
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("repeats = 3", "repeats = 0", "2: repeats: 0 is out of range: it must be at least 1."),
        ("repeats = 3", "repeats = 3.5", "2: repeats: 3.5 is not a whole number (write it without quotes)."),
        ('question = "Does anybody notice?"', "", "1: question: is missing; every plan must have it."),
        ("seed = 7", "sed = 7", '3: sed: there is no key "sed" in a plan; did you mean "seed"?'),
        ("[guest]", "[gust]", '6: gust: there is no key "gust" in a plan; did you mean "guest"?'),
        ('link = { rate = "1 Gbit/s" }', "link = 3", "5: fabric.link: 3 is not a table; write { key = value, ... }."),
        (
            'memory = "256 MiB"',
            'memory = "1000 B"',
            '7: guest.memory: "1000 B" is not a whole number of pages of 4096 bytes.',
        ),
        ('memory = "256 MiB"', "memory = []", "7: guest.memory: is an empty list; give at least one value."),
        (
            '"48 MiB"',
            '"250 MiB"',
            (
                '8: guest.working_set: "250 MiB" does not fit: of guest.memory = "256 MiB" 16 MiB are '
                'the guest\'s own, so at most "240 MiB" is left for it.'
            ),
        ),
        (
            '"48 MiB"',
            '"0 B"',
            (
                '9: guest.dirty_rate: "20 MiB/s" cannot be written to a working set of "0 B"; '
                'give guest.working_set a size, or set the rate to "0 B/s".'
            ),
        ),
        ('"20 MiB/s"]', '"0 MiB/s"]', '9: guest.dirty_rate: "0 MiB/s" stands twice in the list.'),
        (
            '"20 MiB/s"]',
            '\n  "20 Mbit/s"]',
            (
                '10: guest.dirty_rate: "20 Mbit/s" is a data rate in bits, not a data rate in '
                'bytes; write it like "20 MiB/s".'
            ),
        ),
        ("count = 2", "count = 0", "11: clients.count: 0 is out of range: it must be at least 1."),
        (
            "connections = 1,",
            "connections = 900,",
            ("11: clients.count: 2 clients with 900 connections each make 1800; the guest holds at most 1000."),
        ),
        ("100 Mbit/s", "0 bit/s", '12: clients.download.rate: "0 bit/s" is out of range: it must be more than 0.'),
        ("download", "donwload", '12: clients.donwload: there is no key "donwload" here; did you mean "download"?'),
        (
            'rate = "1 Gbit/s" }',
            'rate = "1 Gbit/s", jitter = "1 ms" }',
            "5: fabric.link.jitter: A jitter of 1 ms needs a delay of at least as much, not of 0 ms.",
        ),
        (
            'rate = "1 Gbit/s" }',
            'rate = "1 Mbit/s" }',
            (
                "5: fabric.link.rate: A queue of 10 ms at 1000000 bit/s holds 1250 bytes, less than one frame as the "
                "kernel sends it (70000 bytes): ask for a queue of at least 560 ms, or for a higher rate."
            ),
        ),
        (
            "[guest]",
            "[fabric.links]\ns1 = {}\n[guest]",
            ('7: fabric.links.s1: names no link; write two nodes as "s1-s2", or as "s1>s2" for that direction alone.'),
        ),
        (
            "[guest]",
            '[fabric.links]\n"s1>s2" = { loss = 3 }\n[guest]',
            ('7: fabric.links.s1>s2.loss: 3 has no unit; write "3 %" if that is what you mean.'),
        ),
        (
            "[guest]",
            '[fabric.links]\ns1-s2 = { dealy = "1 ms" }\n[guest]',
            ('7: fabric.links.s1-s2.dealy: there is no key "dealy" here; did you mean "delay"?'),
        ),
        (
            "[guest]",
            '[fabric.links]\ns1-s2 = { loss = "101 %" }\n[guest]',
            ('7: fabric.links.s1-s2.loss: "101 %" is out of range: it must be at most 100 %.'),
        ),
        (
            "[guest]",
            '[fabric.links]\ns1-s2 = { reorder = "1 %" }\n[guest]',
            (
                "7: fabric.links.s1-s2.reorder: Frames can overtake others only on a link with a delay: give it one, "
                "or no reordering."
            ),
        ),
        (
            "[migration]",
            "[migration]\nrounds = 3",
            ('14: migration.rounds: the policy "tcp-timeout" takes no such parameter; it belongs to "fixed-rounds".'),
        ),
        (
            'policy = "tcp-timeout"',
            'policy = "hope"',
            (
                '14: migration.policy: "hope" is not supported; write "fixed-rounds", "threshold", "tcp-timeout", '
                '"clark", "downtime-limit" or "deadline".'
            ),
        ),
        (
            'policy = "tcp-timeout"',
            'policy = "fixed-rounds"\nrounds = 0',
            "15: migration.rounds: 0 is out of range: it must be at least 1.",
        ),
        (
            'policy = "tcp-timeout"',
            'policy = "downtime-limit"\nthrottle_initial = "100 %"',
            '15: migration.throttle_initial: "100 %" is out of range: it must be at most "99 %".',
        ),
        (
            'policy = "tcp-timeout"',
            'policy = "downtime-limit"\ndowntime_limit = 300',
            '15: migration.downtime_limit: 300 has no unit; write "300 ms" if that is what you mean.',
        ),
        (
            'policy = "tcp-timeout"',
            'policy = "clark"\nmin_rate = "600 Mbit/s"',
            '14: migration.policy: "clark" does not take its parameters: min_rate is more than max_rate.',
        ),
        (
            "[migration]",
            '[migration]\nmode = "stop-and-copy"',
            (
                "15: migration.policy: stop-and-copy has no rounds and so no policy; "
                'remove this, or set mode = "pre-copy".'
            ),
        ),
        (
            "[migration]",
            '[migration]\nmode = "post-copy"',
            ('15: migration.policy: post-copy has no rounds and so no policy; remove this, or set mode = "pre-copy".'),
        ),
        (
            'policy = "tcp-timeout"',
            'policy = "downtime-limit"\nthrottle_initial = "60 %"\nmax_throttle = "50 %"',
            (
                '14: migration.policy: "downtime-limit" does not take its parameters: '
                "throttle_initial is more than max_throttle."
            ),
        ),
        (
            "[migration]",
            '[migration]\nhold_limit = "1 MiB"',
            '14: migration.hold_limit: means nothing where no frame is held; set gap = "hold".',
        ),
        (
            'policy = "tcp-timeout"',
            'mode = "stop-and-copy"\ntracking = "comparison"',
            "15: migration.tracking: means nothing without rounds, between which pages are tracked; remove it.",
        ),
        (
            'policy = "tcp-timeout"',
            'mode = "post-copy"\ncodec = ["zstd", "none"]',
            "15: migration.codec: means nothing in a post-copy, whose pages follow the guest as they are; remove it.",
        ),
        (
            "[migration]",
            '[migration]\nverify = true\nmode = "hybrid"',
            (
                "14: migration.verify: with hybrid the guest resumes before all of its memory is there to be compared; "
                "every trial compares what the guest has written at its end, without this too."
            ),
        ),
        (
            "[migration]",
            '[phases]\ncool_down = "0 s"\n[migration]',
            '14: phases.cool_down: "0 s" is out of range: it must be more than 0.',
        ),
        (
            "[migration]",
            "[migration]\nverify = 1",
            "14: migration.verify: 1 is neither true nor false (write it without quotes).",
        ),
        (
            'name = "silent"',
            'name = "announced"',
            '18: [[case]] "announced" name: "announced" is the name of an earlier case.',
        ),
        ('name = "silent"', "", "17: [[case]] 2 name: is missing; every [[case]] must have it."),
        (
            "gave-up",
            "gives-up",
            (
                '19: [[case]] "silent" expect: "gives-up" is none of "completed", "gave-up" or "lost"; '
                'did you mean "gave-up"?'
            ),
        ),
        (
            "migration.announce",
            "migration.anounce",
            '20: [[case]] "silent" migration.anounce: there is no key "anounce" here; did you mean "announce"?',
        ),
        (
            '"none"',
            '"loudly"',
            (
                '20: [[case]] "silent" migration.announce: "loudly" is not an announcement; join any of these by +, '
                'as in "garp+na": "auto", "none", "garp", "garp-reply", "rarp", "na".'
            ),
        ),
        (
            'at_most = "200 ms"',
            "at_most = 200",
            '25: [[clause]] 1 at_most: 200 has no unit; write "200 ms" if that is what you mean.',
        ),
        (
            'at_most = "200 ms"',
            "",
            "21: [[clause]] 1: no bound is given; give exactly one of at_most, at_least and equals.",
        ),
        (
            'statistic = "max"',
            'statistic = "share"',
            (
                '24: [[clause]] 1 statistic: "share" does not go with blackout_ns, '
                'which is a number, which has no "share".'
            ),
        ),
        (
            'case = "announced"',
            'case = "anounced"',
            '26: [[clause]] 1 where.case: there is no case "anounced"; did you mean "announced"?',
        ),
        (
            'case = "announced"',
            'factor = "x"',
            (
                '26: [[clause]] 1 where.factor: "factor" is neither "case" nor a factor of '
                "this plan; known here: case, guest.dirty_rate, migration.announce."
            ),
        ),
        (
            'case = "announced"',
            'guest.dirty_rate = "20 MiB/s"',
            (
                '26: [[clause]] 1 where.guest: "guest" is neither "case" nor a factor of this plan; '
                'a factor is one key, in quotes: "guest.dirty_rate".'
            ),
        ),
        ("equals = 1", "equals = 2", "30: [[budget]] 1 equals: 2 is not a share: write a number from 0 to 1."),
        ("equals = 1", "equls = 1", '30: [[budget]] 1 equls: there is no key "equls" here; did you mean "equals"?'),
        ("[[budget]]", "[budget]", "27: budget: is not a list of tables; write [[budget]] above each of them."),
    ],
)
def test_a_mistake_is_one_sentence_with_line_and_field(write, old, new, expected):
    assert old in GOOD
    assert expected in problems_of(write(GOOD.replace(old, new, 1)))


def test_a_mistake_that_the_whole_grid_shares_is_told_once(write):
    assert len(problems_of(write(GOOD.replace("256 MiB", "32 MiB")))) == 1


def test_text_that_is_not_toml_is_one_sentence_with_its_line(write):
    assert problems_of(write('question = "x"\nrepeats 3\n')) == [
        "2: this is not TOML: expected '=' after a key in a key/value pair (column 9)."
    ]


def test_an_unknown_name_is_answered_with_the_nearest_stock_experiment():
    with pytest.raises(PlanError) as refusal:
        load_plan("clam")
    assert str(refusal.value) == '"clam" is neither a file nor a stock experiment; did you mean "claim"?'


def test_the_command_line_changes_values_and_the_text_that_is_kept(write):
    plan = load_plan(write(GOOD), overrides=["guest.memory=512 MiB", 'guest.dirty_rate="5 MiB/s"'], repeats=9)
    assert plan.repeats == 9
    assert plan.settings[0].settings.guest.memory_bytes == 512 << 20
    assert plan.factors == ("migration.announce",)
    assert tomllib.loads(plan.text) == plan.document
    assert "#   --set guest.memory=512 MiB\n" in plan.text


def test_a_plan_that_is_not_changed_is_kept_as_it_is(write):
    assert load_plan(write(GOOD)).text == GOOD


def test_a_list_on_the_command_line_is_a_factor(write):
    plan = load_plan(write(GOOD), overrides=['fabric.link.rate=["1 Gbit/s", "10 Gbit/s"]'])
    assert len(plan.settings) == 8
    assert "fabric.link.rate" in plan.factors


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("guest.memory=5M", '--set guest.memory: "M" in "5M" is not a unit here; write "5 MiB".'),
        ("gest.memory=5", '--set gest.memory: there is no key "gest" in a plan; did you mean "guest"?'),
        ("guest.memroy=5", '--set guest.memroy: there is no key "memroy" here; did you mean "memory"?'),
        ("memory", '--set memory: write it as key=value, like --set guest.memory="512 MiB".'),
        ("clause.0=1", "--set clause.0: a [[clause]] cannot be changed from the command line; copy the plan."),
        ("guest.memory.size=1", "--set guest.memory.size=1: guest.memory is no table in this plan."),
    ],
)
def test_a_mistake_on_the_command_line_is_told_as_such(write, override, expected):
    assert problems_of(write(GOOD), overrides=[override]) == [expected]


def test_a_case_inherits_a_policy_that_its_mode_has_no_use_for(write):
    plan = load_plan(write(GOOD + '[[case]]\nname = "stop"\nmigration.mode = "stop-and-copy"\n'))
    stopped = [setting for setting in plan.settings if setting.case == "stop"]
    assert {setting.settings.migration.policy for setting in stopped} == {None}
    assert {setting.factors["migration.mode"] for setting in stopped} == {"stop-and-copy"}
    assert {setting.factors["migration.mode"] for setting in plan.settings if setting.case != "stop"} == {"pre-copy"}


def test_a_policy_gets_the_parameters_it_takes_and_no_others(write):
    text = GOOD.replace(
        'policy = "tcp-timeout"', 'policy = ["threshold", "fixed-rounds"]\nthreshold = "1 MiB"\nrounds = 4'
    )
    plan = load_plan(write(text))
    by_policy = {setting.settings.migration.policy: setting.settings.migration for setting in plan.settings}
    assert by_policy["threshold"].policy_parameters == {"threshold_bytes": 1 << 20, "max_rounds": 30}
    assert by_policy["fixed-rounds"].policy_parameters == {"rounds": 4}


def test_a_grid_too_large_to_run_is_refused(write):
    text = GOOD.replace("repeats = 3", "repeats = 50000")
    assert problems_of(write(text)) == [
        "2: repeats: the grid has 200000 trials, more than 100000; shorten its lists or repeats."
    ]


@pytest.mark.parametrize("name", sorted(stock_plans()))
def test_stock_plans_are_right(name):
    plan = load_plan(name)
    assert len(trials(plan)) == len(plan.settings) * plan.repeats
    assert plan.clauses


def test_the_claim_has_its_counter_cases():
    plan = load_plan("claim")
    assert plan.repeats == 20
    expected = {setting.case: setting.expected for setting in plan.settings}
    assert expected["dirty rate above the link"] == "gave-up"
    assert {"the claim", "idle guest", "no announcement", "stop-and-copy"} <= set(expected)
    assert {clause.where["case"] for clause in plan.clauses if clause.counter} == {
        "no announcement, quiet guest",
        "stop-and-copy",
        "dirty rate above the link",
    }


@pytest.mark.parametrize(("tools", "names"), [("none", ()), ("fping", ("fping",)), ("wrk+fping", ("wrk", "fping"))])
def test_tools_of_others_are_joined_by_a_plus(trial_of, tools, names):
    assert trial_of(f"clients.tools={tools}").settings.clients.tool_names == names
    assert trial_of().settings.clients.tool_names == ()


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ("pfing", '"pfing" is not a tool that can be run; join any of these by +'),
        ("fping+fping", '"fping+fping" names a tool twice'),
        ("none+fping", '"none" is not a tool'),
        ("", '"" is not a tool'),
    ],
)
def test_a_tool_that_is_none_is_answered_with_those_there_are(trial_of, tools, said):
    with pytest.raises(PlanError) as error:
        trial_of(f'clients.tools="{tools}"')
    assert said in str(error.value)
    assert '"none", "fping", "redis-benchmark", "wrk", "sockperf", "iperf3"' in str(error.value)


def test_a_tool_that_begins_after_the_warm_up_is_refused(trial_of):
    with pytest.raises(PlanError) as error:
        trial_of("clients.tools=fping+sockperf")
    assert '"300 ms" is too short for sockperf, which measures nothing in its first "2500 ms"' in str(error.value)
    trial_of("clients.tools=fping+sockperf", "phases.warm_up=2.5 s")


def test_a_tool_is_given_the_time_that_a_trial_is_foreseen_to_take(trial_of):
    given = ("guest.memory=256 MiB", "phases.warm_up=2500 ms", "phases.cool_down=3 s", "fabric.link.rate=1 Gbit/s")
    assert trial_of(*given).settings.foreseen_s == 20  # all memory twice takes 4.3 s, other things 10 s
    assert trial_of(*given, "migration.rate_limit=500 Mbit/s").settings.foreseen_s == 25


def test_frames_are_not_held_for_a_guest_that_nobody_announces(trial_of):
    with pytest.raises(PlanError) as error:
        trial_of("migration.gap=hold")  # one case of the plan does not announce
    assert '"hold" has the switches bring the frames to where they are held' in str(error.value)


def test_what_takes_effect_in_a_case_alone_may_stand_in_the_plan(write):
    text = GOOD.replace("[migration]", '[migration]\nhold_time = "1 s"\ncodec = "zstd"\nannounce_at = "0 ms"')
    with pytest.raises(PlanError, match=r"migration\.hold_time: means nothing where no frame is held"):
        load_plan(write(text))
    case = '[[case]]\nname = "held"\nmigration = { gap = "hold", announce = "garp" }\n'
    load_plan(write(text + case))
    later = '[[case]]\nname = "later"\nmigration.mode = "post-copy"\n'
    load_plan(write(text + case + later))
    with pytest.raises(PlanError, match=r"migration\.codec: means nothing in a post-copy"):
        load_plan(write(text + case + later + 'migration.codec = "xor"\n'))


@pytest.mark.parametrize(
    ("key", "listed", "ways"),
    [
        ("policy", '["tcp-timeout", "threshold"]', ("mode", "post-copy", "pre-copy")),
        ("codec", '["none", "zstd"]', ("mode", "post-copy", "hybrid")),
        ("hold_time", '["1 s", "2 s"]', ("gap", "drop", "hold")),
    ],
)
def test_a_list_repeats_nothing_for_which_it_means_nothing(write, key, listed, ways):
    other, without, takes = ways
    top = f'question = "Who waits?"\n[migration]\n{other} = "{takes}"\n'
    idle = f'[[case]]\nname = "idle"\nmigration.{other} = "{without}"\n'
    taking = f'[[case]]\nname = "taking"\nmigration.{key} = {listed}\n'
    assert len(load_plan(write(top + idle + taking)).settings) == 3
    inherited = (
        f"migration\\.{other}: {without} would be repeated for each value of migration\\.{key}, which means nothing"
    )
    with pytest.raises(PlanError, match=inherited):
        load_plan(write(top + f"{key} = {listed}\n" + idle))
    beside = (
        f"migration\\.{key}: a list here would repeat {without}, .*for each of its values; make a \\[\\[case\\]\\] of"
    )
    with pytest.raises(PlanError, match=beside):
        load_plan(write(both := top.replace(f'"{takes}"', f'["{takes}", "{without}"]') + f"{key} = {listed}\n"))
    with pytest.raises(PlanError, match=beside):  # a case that changes neither has them both
        load_plan(write(both + '[[case]]\nname = "small"\nguest.memory = "128 MiB"\n'))


def test_a_trial_is_called_by_its_case_and_by_what_sets_it_apart_there(write):
    text = 'question = "Which?"\n[[case]]\nname = "Later"\nmigration.mode = "post-copy"\n[[case]]\nname = "rounds"\n'
    plan = load_plan(write(text + 'migration = { mode = ["pre-copy", "hybrid"], policy = "threshold" }\n'))
    ids = {trial.id.split("-", 1)[1] for trial in trials(plan)}
    assert ids == {"later", "rounds-pre-copy", "rounds-hybrid"}
    (trial,) = trials(load_plan(write('question = "Which?"\nrepeats = 1\n[guest]\nmemory = ["256 MiB"]\n')))
    assert trial.id == "0001-trial"


def test_only_what_is_held_is_acknowledged(trial_of):
    with pytest.raises(PlanError) as error:
        trial_of("migration.zero_window=true")
    assert 'true goes with migration.gap = "hold" only' in str(error.value)


def test_links_of_their_own_are_laid_over_all_links_and_may_be_factors(write):
    text = GOOD.replace(
        "[guest]", '[fabric.links]\ns1-s2 = { delay = ["5 ms", "20 ms"] }\n"c1>s1".loss = "0.1 %"\n[guest]'
    )
    plan = load_plan(write(text))
    assert plan.factors == ("fabric.links.s1-s2.delay", "guest.dirty_rate", "migration.announce")
    assert {setting.factors["fabric.links.s1-s2.delay"] for setting in plan.settings} == {"5 ms", "20 ms"}
    delay, loss = plan.settings[0].settings.fabric.changes
    assert (delay.link, delay.delay_ns, delay.loss_ppm) == ("s1-s2", 5_000_000, None)
    assert (loss.link, loss.delay_ns, loss.loss_ppm) == ("c1>s1", None, 1000)
    assert load_plan(write(plan.text)).settings == plan.settings
    changed = load_plan(write(text), overrides=["fabric.links.s1-s2.loss=1 %"])
    assert changed.settings[0].settings.fabric.changes[0].loss_ppm == 10_000
    assert load_plan(write(changed.text)).settings == changed.settings


def test_a_case_may_have_a_link_of_its_own(write):
    plan = load_plan(write(GOOD.replace('migration.announce = "none"', 'fabric.links.s1-s2.loss = "1 %"')))
    by_case = {setting.case: setting for setting in plan.settings}
    assert by_case["silent"].factors["fabric.links.s1-s2.loss"] == "1 %"
    assert by_case["announced"].factors["fabric.links.s1-s2.loss"] is None
    assert by_case["announced"].settings.fabric.changes == ()


def test_a_load_over_no_connection_is_none(write):
    loads = 'download = { connections = 0 }\nrequest_response = { connections = 0, rate = "1 kHz" }'
    plan = load_plan(write(GOOD.replace('download = { connections = 1, rate = "100 Mbit/s" }', loads)))
    clients = plan.settings[0].settings.clients
    assert clients.download is None
    assert clients.request_response is None
    assert clients.connections == 0


def test_frames_cannot_be_held_for_a_guest_that_gets_another_mac(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text('question = "?"\n[guest]\nmac = ["kept", "new"]\n[migration]\ngap = "hold"\n')
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    (problem,) = caught.value.problems
    assert problem.startswith(f'{path}:3: guest.mac: "new" does not go with migration.gap = "hold":')


def test_frames_cannot_be_held_where_each_of_them_comes_to_both_hosts(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text('question = "?"\n[fabric.switch]\nlearning = false\n[migration]\ngap = ["drop", "hold"]\n')
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    (problem,) = caught.value.problems
    assert problem.startswith(f'{path}:5: migration.gap: "hold" has switches bring the frames to the destination,')


def test_a_spanning_tree_that_there_is_not_is_told_with_those_there_are(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text('question = "?"\n[fabric.switch]\nkind = "ovs"\nstp = "rapid"\n')
    assert load_plan(path).settings[0].settings.fabric.switch.stp == "rapid"
    path.write_text('question = "?"\n[fabric.switch]\nstp = "fast"\n')
    with pytest.raises(
        PlanError, match=r':3: fabric\.switch\.stp: "fast" is no spanning tree: write true, false or "rapid"'
    ):
        load_plan(path)


def test_a_switch_that_cannot_be_is_told_with_the_line_of_each_mistake(tmp_path):
    path = tmp_path / "plan.toml"
    lines = ['question = "?"', "[fabric.switch]", 'forward_delay = "1 s"', "learning = false", "learning_limit = 5"]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    assert caught.value.problems == (
        f"{path}:3: fabric.switch.forward_delay: 1 s is out of range: the Linux bridge takes 2 to 30 s.",
        f"{path}:5: fabric.switch.learning_limit: it must be above 0, and switches must learn at all.",
    )


SCHEDULE = """[[fabric.schedule]]
link = "s1-s2"
when = "round 1"
after = "50 ms"
loss = "5 %"
[[fabric.schedule]]
link = "s1-s2"
when = "resumed"
state = "restored"
"""


def test_a_schedule_is_one_value_and_no_factor(write):
    plan = load_plan(write(GOOD.replace("[guest]", SCHEDULE + "[guest]")))
    assert plan.factors == ("guest.dirty_rate", "migration.announce")
    loss, restored = plan.settings[0].settings.fabric.schedule
    assert (loss.link, loss.moment, loss.change.loss_ppm) == ("s1-s2", "round 1 + 50 ms", 50_000)
    assert (restored.state, restored.change) == ("restored", None)
    again = load_plan(write(load_plan(write(GOOD.replace("[guest]", SCHEDULE + "[guest]")), repeats=1).text))
    assert again.settings == plan.settings


def test_a_case_may_have_a_schedule_of_its_own(write):
    case = '[[case]]\nname = "cut"\n[[case.fabric.schedule]]\nlink = "s1-s3"\nstate = "cut"\n[[clause]]\ntext'
    plan = load_plan(write(GOOD.replace("[[clause]]\ntext", case, 1)))
    shown = {setting.case: setting.factors["fabric.schedule"] for setting in plan.settings}
    assert shown == {"announced": None, "silent": None, "cut": "s1-s3: cut at migration"}


def test_every_mistake_of_a_schedule_is_told_with_its_line(write):
    bad = (
        SCHEDULE.replace("round 1", "rund 1")
        .replace("loss", "los")
        .replace('link = "s1-s2"\nwhen = "res', 'when = "res')
    )
    assert problems_of(write(GOOD.replace("[guest]", bad + "[guest]"))) == [
        (
            '8: fabric.schedule.when: "rund 1" is no moment of a migration: "migration", "cutover" or "resumed", '
            'or a round\'s end, as in "round 2".'
        ),
        '10: fabric.schedule.los: there is no key "los" here; did you mean "loss"?',
        "11: fabric.schedule.link: is missing; every [[fabric.schedule]] must have it.",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            'loss = "5 %"\n',
            "",
            '6: fabric.schedule: changes nothing; give the link a value, as in loss = "5 %", or state',
        ),
        ('"restored"', '"restored"\nloss = "1 %"', "14: fabric.schedule.state: a link that is restored takes no other"),
        ('"s1-s2"', '"s1"', '7: fabric.schedule.link: "s1" names no link; write two nodes as "s1-s2"'),
    ],
)
def test_what_a_schedule_cannot_mean_is_told(write, old, new, expected):
    [problem, *_] = problems_of(write(GOOD.replace("[guest]", SCHEDULE.replace(old, new) + "[guest]")))
    assert problem.startswith(expected)


def test_a_cut_of_one_direction_is_told(write):
    text = SCHEDULE.replace("restored", "cut").replace("s1-s2", "s1>s2")
    assert problems_of(write(GOOD.replace("[guest]", text + "[guest]"))) == [
        (
            '14: fabric.schedule.state: "s1>s2" is one direction, and a cut takes both: cut "s1-s2", or give "s1>s2" a '
            "loss of 100 %."
        )
    ]


def test_a_round_that_never_comes_is_told(write):
    text = GOOD.replace("[guest]", SCHEDULE + "[guest]").replace('policy = "tcp-timeout"', 'mode = "stop-and-copy"')
    assert problems_of(write(text)) == ['8: fabric.schedule.when: "round 1" never comes: stop-and-copy has no rounds.']
