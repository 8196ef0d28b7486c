import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.experiments.planning.quantities import (
    BIT_RATE,
    BYTE_RATE,
    DIMENSIONS,
    DURATION,
    FREQUENCY,
    SHARE,
    SIZE,
    QuantityError,
    parse,
    written,
)

dimensions = st.sampled_from(DIMENSIONS)


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("250 ms", DURATION, 250_000_000),
        ("1.5 s", DURATION, 1_500_000_000),
        ("3 µs", DURATION, 3_000),
        ("3 μs", DURATION, 3_000),
        ("2 min", DURATION, 120_000_000_000),
        ("1 Gbit/s", BIT_RATE, 10**9),
        ("0.5 kbit/s", BIT_RATE, 500),
        ("512 MiB", SIZE, 512 << 20),
        ("0.5 GiB", SIZE, 512 << 20),
        ("20 MiB/s", BYTE_RATE, 20 << 20),
        ("0 MiB/s", BYTE_RATE, 0),
        ("1 kHz", FREQUENCY, 1000),
        (" 20  Hz ", FREQUENCY, 20),
        ("20Hz", FREQUENCY, 20),
        ("1 %", SHARE, 10_000),
        ("0.25%", SHARE, 2_500),
        ("5 ppm", SHARE, 5),
    ],
)
def test_a_number_and_a_unit_of_the_table_are_read_exactly(text, dimension, value):
    assert parse(text, dimension) == value


@pytest.mark.parametrize(
    ("text", "dimension", "sentence"),
    [
        ("100 Mbps", BIT_RATE, '"Mbps" in "100 Mbps" is not a unit here; write "100 Mbit/s".'),
        ("100mbit", BIT_RATE, '"mbit" in "100mbit" is not a unit here; write "100 Mbit/s".'),
        ("5M", SIZE, '"M" in "5M" is not a unit here; write "5 MiB".'),
        ("5M", BIT_RATE, '"M" in "5M" is not a unit here; write "5 Mbit/s".'),
        ("256 MB", SIZE, '"MB" in "256 MB" is not a unit here; write "256 MiB" (1 MiB is 2^20 bytes).'),
        ("20 MB/s", BYTE_RATE, '"MB/s" in "20 MB/s" is not a unit here; write "20 MiB/s" (1 MiB is 2^20 bytes).'),
        ("1 percent", SHARE, '"percent" in "1 percent" is not a unit here; write "1 %".'),
        ("0.00001 %", SHARE, '"0.00001 %" is not a whole number of ppm; use a coarser value.'),
        ("250", DURATION, '"250" has no unit; write "250 ms" if that is what you mean.'),
        ("0", BIT_RATE, f'"0" has no unit; write a number and a unit, like "{BIT_RATE.example}".'),
        (250, DURATION, '250 has no unit; write "250 ms" if that is what you mean.'),
        ("1 gbit/s", BIT_RATE, '"gbit/s" in "1 gbit/s" is not a unit here; write "1 Gbit/s".'),
        ("10 seconds", DURATION, '"seconds" in "10 seconds" is not a unit here; write "10 s".'),
        ("5 m", DURATION, '"m" in "5 m" is not a unit here; write "5 min".'),
        ("1 MiB/s", BIT_RATE, '"1 MiB/s" is a data rate in bytes, not a data rate in bits; write it like "1 Gbit/s".'),
        ("1 Gbit/s", SIZE, '"1 Gbit/s" is a data rate in bits, not a size; write it like "256 MiB".'),
        ("1 Gbit", SIZE, '"1 Gbit" looks like a data rate in bits, not a size; write it like "256 MiB".'),
        ("-5 ms", DURATION, '"-5 ms" is negative; a duration must be 0 or more.'),
        ("0.5 Hz", FREQUENCY, '"0.5 Hz" is not a whole number of Hz; use a coarser value.'),
        (
            "1 fortnight",
            DURATION,
            '"fortnight" in "1 fortnight" is not a unit of a duration; use one of ns, us, ms, s, min.',
        ),
        (
            "fast",
            BIT_RATE,
            (
                '"fast" is not a data rate in bits; write a number and a unit, like "1 Gbit/s" '
                "(units: bit/s, kbit/s, Mbit/s, Gbit/s)."
            ),
        ),
        (True, SIZE, 'true is not a size; write it as text, like "256 MiB".'),
        ({}, SIZE, 'a table is not a size; write it as text, like "256 MiB".'),
    ],
)
def test_what_is_not_exact_is_refused_with_the_spelling_to_use(text, dimension, sentence):
    with pytest.raises(QuantityError) as refusal:
        parse(text, dimension)
    assert str(refusal.value) == sentence


@given(dimension=dimensions, value=st.integers(min_value=0, max_value=10**18))
def test_what_is_written_is_read_back_as_the_same_value(dimension, value):
    assert parse(written(value, dimension), dimension) == value


@given(dimension=dimensions, data=st.data())
def test_every_unit_is_a_whole_number_of_base_units(dimension, data):
    unit = data.draw(st.sampled_from(sorted(dimension.units)))
    number = data.draw(st.integers(min_value=0, max_value=10**9))
    assert parse(f"{number} {unit}", dimension) == number * dimension.units[unit]


@given(dimension=dimensions, text=st.text(max_size=12))
def test_any_text_is_read_or_refused_in_one_sentence(dimension, text):
    try:
        value, sentence = parse(text, dimension), "."
    except QuantityError as refusal:
        value, sentence = 0, str(refusal)
    assert value >= 0
    assert sentence.endswith(".")


@given(dimension=dimensions, data=st.data())
def test_the_spelling_that_a_refusal_proposes_is_accepted(dimension, data):
    misspelt = data.draw(st.sampled_from(sorted(dimension.misspelt)))
    with pytest.raises(QuantityError) as refusal:
        parse(f"3 {misspelt}", dimension)
    proposed = re.search(r'write (?:it like )?"([^"]+)"', str(refusal.value))
    assert proposed is not None
    assert parse(proposed.group(1), dimension) > 0
