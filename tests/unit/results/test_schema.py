from __future__ import annotations

from dataclasses import fields

import pandas as pd
import pytest

from unnoticed.errors import RecordError
from unnoticed.results import schema
from unnoticed.results.store import Tables


def test_every_table_starts_with_its_trial_and_has_a_place_in_tables():
    assert [table.columns[0] for table in schema.TABLES] == [schema.TRIAL_ID] * len(schema.TABLES)
    assert {field.name for field in fields(Tables)} == set(schema.BY_NAME)


@pytest.mark.parametrize("name", list(schema.BY_NAME))
def test_an_empty_table_is_valid(name):
    frame = schema.validate(name, schema.empty(name))
    assert list(frame.columns) == [column.name for column in schema.BY_NAME[name].columns]
    assert not len(frame)


def test_durations_and_times_are_integers_of_nanoseconds():
    for table in schema.TABLES:
        for column in table.columns:
            assert (column.unit == "ns") == column.name.endswith("_ns"), (table.name, column.name)
            assert column.unit != "ns" or column.dtype == "Int64"


def test_the_synthetic_trials_are_valid_and_keep_missing_numbers_missing(synthetic):
    frame = schema.validate("trials", synthetic.trials())
    given_up = frame[frame["outcome"] == "gave-up"]
    assert given_up["blackout_ns"].isna().all()
    assert frame["blackout_ns"].dtype == "Int64"
    assert schema.factors(frame) == ["guest.dirty_rate", "migration.announce"]


def test_all_mistakes_of_a_table_are_said_at_once():
    frame = pd.DataFrame(
        {"trial_id": ["t", None], "switch": ["s1", "s2"], "port": [1, 2], "time_ns": [1.5, 2.0], "colour": ["x", "y"]}
    )
    with pytest.raises(RecordError) as caught:
        schema.validate("relearned", frame)
    text = str(caught.value)
    for problem in ("cause is missing", "colour is not known", "trial_id: 1 of 2", "port: 1 is not a text", "time_ns"):
        assert problem in text


def test_a_word_that_the_column_does_not_know_is_refused(synthetic):
    frame = synthetic.trials().assign(outcome="finished")
    with pytest.raises(RecordError, match="'finished' is none of completed, gave-up, lost, failed"):
        schema.validate("trials", frame)


def test_a_factor_keeps_numbers_and_makes_mixtures_text(synthetic):
    frame = synthetic.trials().head(2).assign(**{"clients.count": [2, 4], "fabric.x": ["a", 3]})
    valid = schema.validate("trials", frame)
    assert valid["clients.count"].tolist() == [2.0, 4.0]
    assert valid["fabric.x"].tolist() == ["a", "3"]


def test_only_the_trials_table_takes_factors(synthetic):
    rounds = synthetic.trial("the claim", 0)["rounds"].assign(**{"guest.memory": "1 GiB"})
    with pytest.raises(RecordError, match=r"guest\.memory is not known"):
        schema.validate("rounds", rounds)
