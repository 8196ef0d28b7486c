"""A guest moves with each codec, and its RAM is what it was."""

import pytest

from unnoticed.agents.packing import CODEC_NAMES

pytestmark = pytest.mark.root

CONTENTS = {"zero_ppm": 250_000, "compressible_ppm": 500_000}


def sent(stage):
    """Pages and bytes of the last migration, by encoding."""
    total = {}
    for event in stage.events("round") + stage.events("rest"):
        if event["migration"] == stage.number:
            for encoding, (pages, wire_bytes) in event["encodings"].items():
                before = total.get(encoding, (0, 0))
                total[encoding] = (before[0] + pages, before[1] + wire_bytes)
    return total


def test_a_guest_goes_back_and_forth_with_each_codec_and_its_ram_stays_what_it_is(stage):
    stage.boot(memory_bytes=32 << 20, contents=CONTENTS)
    client = stage.load(bulk=False)
    places, by_codec = ["a", "b"], {}
    for codec in CODEC_NAMES:
        source, destination = places
        report = stage.migrate(
            *(source, destination),
            codec=codec,
            policy="fixed-rounds",
            parameters={"rounds": 3},
            rate_bytes_per_s=50_000_000,  # so that `auto` chooses to code, on any machine
            verify=True,
        )
        assert (report["outcome"], report["reason"]) == ("completed", "")
        stage.agents[destination].wait_reply("arrival", 10)
        by_codec[codec] = sent(stage)
        pages = sum(pages for pages, _ in by_codec[codec].values())
        assert pages >= 32 << 20 >> 12
        assert sum(wire for _, wire in by_codec[codec].values()) <= report["bytes_sent"] < pages * 4096 * 1.1
        places.reverse()
    stage.check_guest(places[0])
    stage.check_unharmed(client)
    assert set(by_codec["none"]) == {"none"}
    assert set(by_codec["zero"]) == {"none", "zero"}
    zero_pages, zero_bytes = by_codec["zero"]["zero"]
    assert zero_bytes == 0
    assert zero_pages > 0.2 * (32 << 20 >> 12)
    for codec, encoding in (("zstd", "zstd"), ("xor", "xor"), ("auto", "zstd")):
        pages, wire_bytes = by_codec[codec][encoding]
        assert wire_bytes < 0.6 * pages * 4096


def test_a_migration_in_one_go_can_be_coded_too(stage):
    stage.boot(memory_bytes=32 << 20, contents=CONTENTS)
    report = stage.migrate("a", "b", mode="stop-and-copy", policy="none", codec="xor", verify=True)
    assert report["outcome"] == "completed"
    assert report["bytes_sent"] < 24 << 20
    stage.check_guest("b")


def test_codes_that_were_changed_on_their_way_leave_the_guest_where_it_is(stage, middleman):
    stage.boot(memory_bytes=32 << 20, contents=CONTENTS)
    middleman("flip", 8 << 20)
    report = stage.migrate("a", "b", via="control", codec="zstd", verify=True)
    assert report["outcome"] == "failed"
    assert stage.agents["b"].wait_reply("arrival", 10)["arrival"] == "refused"
    stage.check_guest("a")
