from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pandas as pd
import pytest

from unnoticed.results import schema
from unnoticed.results.cells import cells
from unnoticed.results.plots import distribution, retransmits, rounds, timeline, waterfall


@pytest.fixture(scope="module")
def tables(synthetic_folder):
    return synthetic_folder.load()


@pytest.fixture(scope="module")
def settings(synthetic, tables):
    return cells(tables.trials, synthetic.run().cases)


@pytest.fixture(scope="module")
def draw(tables, settings):
    """Each picture by its name, as a function that draws it."""
    trial = tables.of_trial("01-002")
    return {
        "timeline": lambda: timeline.draw(trial),
        "waterfall": lambda: waterfall.draw(trial),
        "distribution": lambda: distribution.draw(settings),
        "rounds": lambda: rounds.draw(settings, tables.rounds),
        "retransmits": lambda: retransmits.draw(settings, tables.flows, tables.retransmits),
    }


NAMES = ("timeline", "waterfall", "distribution", "rounds", "retransmits")


def _texts(svg):
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("name", NAMES)
def test_identical_data_gives_identical_bytes(draw, name):
    assert draw[name]() == draw[name]()


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_small_well_formed_and_asks_for_nothing_outside(draw, name):
    svg = draw[name]()
    assert len(svg) < 150_000
    ElementTree.fromstring(svg)
    assert re.findall(r"https?://[^\"]*", svg) == ["http://www.w3.org/2000/svg"]
    assert "<style" not in svg  # it would change the look of the whole page
    assert "font-family" not in svg
    assert "<image" not in svg


@pytest.mark.parametrize("name", NAMES)
def test_every_colour_follows_the_page_and_every_reference_has_its_target(draw, name):
    svg = draw[name]()
    bare = re.sub(r"var\(--[a-z]+, #[0-9a-f]{6}\)", "", svg)
    assert not re.findall(r"(?<!\()#[0-9a-f]{6}", bare)
    targets = set(re.findall(r'id="([^"]+)"', svg))
    references = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg))
    assert {first or second for first, second in references} <= targets
    assert all(target.startswith(f"{name}-") for target in targets)


def test_the_timeline_names_rounds_steps_switches_and_what_each_client_felt(draw):
    texts = _texts(draw["timeline"]())
    for text in ("round 0", "guest paused", "blackout 13.0 ms", "restore connections · B", "switch s3 re-learns"):
        assert text in texts
    assert {"294 ms", "293 ms"} <= set(texts)  # c1 and c2


def test_the_waterfall_shows_every_part_and_the_sum(draw):
    texts = _texts(draw["waterfall"]())
    assert texts.count("wait for the client's timer (RTO)") == 2
    assert texts.count("perceived downtime") == 2
    assert {"294 ms", "293 ms"} <= set(texts)


def test_a_part_is_coloured_by_who_is_to_blame():
    steps = frozenset({"restore connections", "announce"})
    colours = {
        part: waterfall.colour_of(part, steps)
        for part in ("announce", "switches relearn", "wait for the client's timer", "something else")
    }
    assert len(set(colours.values())) == 4


def test_every_trial_is_a_dot(draw, tables):
    svg = draw["distribution"]()
    dots = len(re.findall(r"<use ", svg.split('id="distribution-matplotlib.axis')[0])) + svg.count("<use ")
    measured = int(tables.trials[["blackout_ns", "perceived_ns"]].notna().sum().sum())
    assert dots >= measured
    assert "smallest TCP timeout measured, 204 ms" in _texts(svg)


def test_rounds_that_do_not_shrink_are_said(draw):
    texts = _texts(draw["rounds"]())
    assert texts.count("pages; shrinking in 5 of 5 trials") == 2
    assert "pages; shrinking in 0 of 5 trials" in texts


def test_retransmits_are_summed_by_flow_and_phase(settings, tables):
    first, second = retransmits.rows_of(settings[0], tables.flows, tables.retransmits)
    assert (first.workload, first.sender) == ("download", "guest")
    assert first.per_trial == {"rounds": 2.0, "cutover": 0.0, "push": 0.0, "after": 0.0, "other": 0.0}
    assert (second.workload, second.sender, second.worst) == ("request", "client", 1)
    assert second.per_trial["cutover"] == pytest.approx(2 / 5)


def test_no_retransmission_at_all_is_said_in_words(settings, tables):
    texts = _texts(retransmits.draw(settings, tables.flows, schema.empty("retransmits")))
    assert texts.count("no retransmission in any of 5 trials") == 4


def test_a_timeline_without_requests_throughput_steps_and_outages_can_be_drawn(tables):
    trial = tables.of_trial("00-002")
    bare = {name: schema.empty(name) for name in ("requests", "timeline", "steps", "outages", "relearned", "rounds")}
    texts = _texts(timeline.draw(replace(trial, **bare)))
    assert "not recorded" in texts
    assert "blackout 13.0 ms" in texts


def test_a_switch_that_relearns_long_after_is_named_at_the_edge_and_not_drawn_outside(tables):
    trial = tables.of_trial("00-002")
    relearned = trial.relearned.assign(time_ns=trial.relearned["time_ns"] + 10_000_000_000)
    svg = timeline.draw(replace(trial, relearned=relearned))
    assert "at 10.0 s" in _texts(svg)
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg).group(1))
    assert max(float(x) for x in re.findall(r'<text [^>]*x="([\d.]+)"', svg)) < width


def test_stalls_of_the_machine_are_marked_and_named_where_there_are_any(tables):
    trial = tables.of_trial("00-002")
    assert not any("stalled" in text for text in _texts(timeline.draw(trial)))
    paused = int(trial.trials["paused_ns"].iloc[0])
    for begin, length in ((-900_000_000, 100_000_000), (2_000_000, 6_000_000)):
        stall = pd.DataFrame(
            {"trial_id": ["00-002"], "start_ns": [paused + begin], "end_ns": [paused + begin + length]}
        )
        svg = timeline.draw(replace(trial, stalls=stall))
        assert "▨ this machine itself stalled" in _texts(svg)
        assert svg.count("url(#timeline-") > timeline.draw(trial).count("url(#timeline-")  # the hatching


@pytest.mark.parametrize(("begin_s", "said"), [(-2, "and 1.98 s before the pause"), (3, "and 2.99 s after the resume")])
def test_what_a_client_felt_far_from_the_cutover_is_said_and_does_not_stretch_the_picture(tables, begin_s, said):
    trial = tables.of_trial("00-002")
    paused = int(trial.trials["paused_ns"].iloc[0])
    begin = paused + begin_s * 10**9
    outages = trial.outages.assign(start_ns=begin, end_ns=begin + 20 * 10**6)
    texts = _texts(timeline.draw(replace(trial, outages=outages)))
    assert f"20.0 ms, {said}" in texts
    assert "40" in texts  # milliseconds: the axis is the cutover's


def test_the_slowest_requests_of_the_whole_picture_and_of_the_cutover_are_told_apart(draw, tables):
    assert _texts(draw["timeline"]()).count("worst here") == 2
    trial = tables.of_trial("01-002")
    both = pd.concat([trial.waterfall, trial.waterfall.assign(estimator="request-latency")])
    assert "c1, its slowest request around the cutover" in _texts(waterfall.draw(replace(trial, waterfall=both)))


def changes_of(trial, *changes):
    """The table of links for (link, change, seconds after the pause)."""
    paused = int(trial.trials["paused_ns"].iloc[0])
    rows = [("00-002", link, change, "round 1", paused, paused + at, paused + at + 1) for link, change, at in changes]
    columns = [column.name for column in schema.BY_NAME["links"].columns]
    return schema.validate("links", pd.DataFrame(rows, columns=columns))


def test_links_that_changed_are_named_where_there_is_room_and_left_out_where_nothing_is_drawn(tables):
    trial = tables.of_trial("00-002")
    once = changes_of(trial, ("s1-s2", "loss 5 %", 0), ("c1-s1", "cut", 3600 * 10**9))
    texts = _texts(timeline.draw(replace(trial, links=once)))
    assert "s1-s2 loss 5 %" in texts
    assert "c1-s1 cut" not in texts
    many = changes_of(trial, *((f"s1-s{number}", "cut", number) for number in range(2, 9)))
    drawn = timeline.draw(replace(trial, links=many))
    assert [text for text in _texts(drawn) if text.endswith(" cut")] == ["s1-s2 cut", "s1-s3 cut"]


def test_pages_that_follow_the_guest_are_in_the_picture_to_the_last(tables):
    trial = tables.of_trial("00-002")
    named = {"pages follow", "guest: pages after"}
    assert not named & set(_texts(timeline.draw(trial)))
    trials = trial.trials.assign(catch_up_ns=9_000_000_000)
    resumed_ns = int(trials["resumed_ns"].iloc[0])
    waits = [{"start_ns": resumed_ns + 1000 * number, "latency_ns": 70_000 + number} for number in range(3)]
    faults = pd.DataFrame([{"trial_id": "00-002", "migration": 0, **wait} for wait in waits])
    texts = _texts(timeline.draw(replace(trial, trials=trials, faults=faults)))
    assert named <= set(texts)
    assert any("70.0 µs" in text for text in texts)
    assert "8" in texts  # seconds after the pause


def test_requests_that_were_never_answered_are_counted(tables):
    trial = tables.of_trial("00-002")
    requests = trial.requests.copy()
    late = requests["intended_ns"] > trial.trials["paused_ns"].iloc[0]
    requests.loc[late & (requests["client"] == "c1"), "answered_ns"] = pd.NA
    texts = _texts(timeline.draw(replace(trial, requests=requests)))
    assert f"{int(late.sum() / 2)} never" in texts
    assert texts.count("answered") == 1


def test_of_many_clients_the_timeline_shows_the_three_that_felt_most(tables):
    trial = tables.of_trial("00-002")
    outages = trial.outages[trial.outages["client"] == "c1"]
    more = [outages.assign(client=f"c{n}", end_ns=outages["end_ns"] + n * 1000) for n in range(3, 12)]
    texts = _texts(timeline.draw(replace(trial, outages=pd.concat([trial.outages, *more]))))
    assert [text for text in texts if text.endswith(": answers")] == ["c9: answers", "c10: answers", "c11: answers"]


def test_a_hostile_name_cannot_leave_the_picture(settings, tables):
    cell = replace(settings[0], label='<script>alert("x")</script> & more')
    svg = distribution.draw([cell])
    assert "<script" not in svg
    ElementTree.fromstring(svg)
