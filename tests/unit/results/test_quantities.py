from __future__ import annotations

import pandas as pd
import pytest

from unnoticed.results.quantities import (
    NOTHING,
    fixed_ms,
    format_bit_per_s,
    format_bytes,
    format_ns,
    format_quantity,
    format_share,
)


@pytest.mark.parametrize(
    ("value_ns", "text"),
    [
        (0, "0 ms"),
        (850, "850 ns"),
        (130_000, "130 µs"),
        (12_600_000, "12.6 ms"),
        (40_000_000, "40.0 ms"),
        (204_000_000, "204 ms"),
        (999_400_000, "999 ms"),
        (999_960_000, "1.00 s"),
        (1_040_000_000, "1.04 s"),
        (-5_500_000, "−5.50 ms"),
    ],
)
def test_durations_keep_three_digits_and_carry_over_to_the_next_unit(value_ns, text):
    assert format_ns(value_ns) == text


def test_sizes_are_binary_and_rates_decimal():
    assert format_bytes(96) == "96 bytes"
    assert format_bytes(4096) == "4.00 KiB"
    assert format_bytes(256 << 20) == "256 MiB"
    assert format_bit_per_s(914e6) == "914 Mbit/s"
    assert format_bit_per_s(1e9) == "1.00 Gbit/s"


def test_a_share_short_of_all_is_never_written_as_all():
    assert format_share(1.0) == "100 %"
    assert format_share(0.99999) == "> 99.9 %"
    assert format_share(0.00001) == "< 0.1 %"
    assert format_share(0.0) == "0 %"


def test_a_missing_number_is_a_dash_and_not_zero():
    assert format_quantity(pd.NA, "ns") == NOTHING
    assert format_quantity(float("nan"), "count") == NOTHING
    assert fixed_ms(None) == NOTHING
    assert format_quantity(0, "count") == "0"


def test_counts_have_neither_unit_nor_trailing_zeros():
    assert format_quantity(0.5, "count") == "0.5"
    assert format_quantity(65536, "count") == "65\u202f536"
    assert fixed_ms(2_200_000_000) == "2\u202f200.00"
