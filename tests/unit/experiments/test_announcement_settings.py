"""What a plan says of announcements and of the family that clients speak."""

import pytest

from unnoticed.errors import PlanError

MS = 1_000_000


@pytest.mark.parametrize(
    ("ip", "announce", "meant"),
    [
        ("ipv4", "auto", "garp"),
        ("ipv6", "auto", "garp+na"),
        ("ipv6", "na", "na"),
        ("ipv4", "garp-reply+rarp", "garp-reply+rarp"),
        ("ipv6", "none", "none"),
    ],
)
def test_unless_said_a_guest_is_announced_by_a_frame_for_each_address_that_it_has(trial_of, ip, announce, meant):
    settings = trial_of(f"clients.ip={ip}", f"migration.announce={announce}").settings
    assert settings.migration.announce == meant


@pytest.mark.parametrize(
    ("text", "after_ns", "early"),
    [
        ("0 ms", (0,), False),
        ("0 ms, 50 ms,200 ms", (0, 50 * MS, 200 * MS), False),
        ("early", (), True),
        ("early, 1 s", (1000 * MS,), True),
    ],
)
def test_the_times_of_announcements_are_joined_by_commas(trial_of, text, after_ns, early):
    migration = trial_of(f'migration.announce_at="{text}"').settings.migration
    assert (migration.announced_after_ns, migration.announced_early) == (after_ns, early)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["announce=shout"],
            '"shout" is not an announcement; join any of these by +, as in "garp+na": "auto", "none",',
        ),
        (["announce=garp+garp"], '"garp+garp" names an announcement twice'),
        (["announce=garp+none"], '"none" is not an announcement'),
        (['announce_at=""'], 'join several by commas, as in "0 ms, 50 ms", "early" among them.'),
        (['announce_at="0 ms, 50"'], '"50" has no unit'),
        (["announce=na"], '"na" announces an IPv6 address, and the guest has one only with clients.ip = "ipv6".'),
        (['announce_at="20 ms"', "gap=hold"], '"20 ms" does not go with migration.gap = "hold"'),
        (['announce_at="early, 0 ms"', "gap=hold"], '"early, 0 ms" does not go with migration.gap = "hold"'),
    ],
)
def test_what_cannot_be_announced_so_is_answered_with_what_can(trial_of, overrides, said):
    with pytest.raises(PlanError) as error:
        trial_of(*(f"migration.{override}" for override in overrides))
    assert said in str(error.value)


def test_tools_of_others_are_not_run_over_ipv6(trial_of):
    with pytest.raises(PlanError, match="tools of others run over IPv4 only"):
        trial_of("clients.ip=ipv6", "clients.tools=fping")
