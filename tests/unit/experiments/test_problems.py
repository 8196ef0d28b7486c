import pytest

from unnoticed.experiments.planning.problems import near_word, suggestion


@pytest.mark.parametrize(
    ("word", "known", "near"),
    [
        ("memroy", ("memory", "working_set"), "memory"),  # two letters the other way round
        ("gust", ("guest", "fabric"), "guest"),  # one left out
        ("donwload", ("download", "upload"), "download"),
        ("gives-up", ("completed", "gave-up"), "gave-up"),
        ("Tree", ("single", "tree"), "tree"),
        ("blackout", ("blackout_ns", "perceived_ns"), "blackout_ns"),  # its beginning
        ("rnu", ("run", "lab"), "run"),
    ],
)
def test_a_misspelling_gets_the_word_that_was_meant(word, known, near):
    assert near_word(word, known) == near


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("postcopy", ("stop-and-copy", "pre-copy")),
        ("post-copy", ("stop-and-copy", "pre-copy")),
        ("hybrid", ("stop-and-copy", "pre-copy")),
        ("rarp", ("garp", "none")),  # one letter, and another protocol
        ("mesh", ("single", "tree", "ring", "leaf-spine")),
        ("na", ("garp", "none")),
        ("", ("garp", "none")),
        ("s", ("single", "tree")),
    ],
)
def test_another_word_is_no_misspelling(word, known):
    assert near_word(word, known) is None
    assert suggestion(word, known) == f"; known here: {', '.join(known)}."
