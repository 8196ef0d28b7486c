from __future__ import annotations

import json
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest

from unnoticed.errors import RecordError
from unnoticed.results.run import Run, run_from_json
from unnoticed.results.store import RunFolder

CLAIM = "the claim"


def test_what_was_written_is_what_is_read(synthetic, synthetic_folder):
    tables = synthetic_folder.load()
    assert tables.trials["trial_id"].tolist() == list(synthetic.run().planned)
    assert synthetic_folder.run() == synthetic.run()
    for name in ("rounds", "flows", "requests", "waterfall"):
        written = synthetic.trial(CLAIM, 3)[name]
        read = tables.of_trial(synthetic.trial_id(CLAIM, 3))[name]
        assert len(read) == len(written)
        for column in written.columns:
            expected = written[column].astype(read[column].dtype)  # where nothing is known, too
            assert read[column].reset_index(drop=True).equals(expected.reset_index(drop=True)), (name, column)


def test_gathered_and_single_tables_say_the_same(small, tmp_path):
    folder = small.write(tmp_path / "run")
    gathered = folder.load()
    (folder.path / "trials.parquet").unlink()
    single = folder.load()
    for name in ("trials", "flows", "timeline"):
        pd.testing.assert_frame_equal(gathered[name], single[name])


def test_a_crash_in_the_middle_of_a_trial_leaves_it_unrecorded(small, tmp_path):
    folder = small.write(tmp_path / "run")
    crashed = folder.trial_path(small.trial_id(CLAIM, 1))
    (crashed / "tables").rename(crashed / "tables.partial")
    assert folder.recorded() == set(small.run().planned) - {crashed.name}
    folder.write_trial(crashed.name, small.trial(CLAIM, 1))
    assert folder.recorded() == set(small.run().planned)
    assert not (crashed / "tables.partial").exists()


def test_a_trial_added_later_is_seen_although_the_tables_were_gathered_before(small, tmp_path):
    folder = small.write(tmp_path / "run")
    shutil.rmtree(folder.trial_path(small.trial_id(CLAIM, 1)))
    folder.gather()
    assert len(folder.load().trials) == len(small.run().planned) - 1
    folder.write_trial(small.trial_id(CLAIM, 1), small.trial(CLAIM, 1))
    assert folder.load().trials["trial_id"].tolist() == list(small.run().planned)


def test_a_damaged_table_is_an_error_that_names_the_file(small, tmp_path):
    folder = small.write(tmp_path / "run")
    path = folder.path / "rounds.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RecordError, match=r"rounds\.parquet is damaged"):
        folder.load()
    path.write_bytes(b"")
    with pytest.raises(RecordError, match=r"rounds\.parquet is damaged"):
        folder.load()
    path.unlink()
    with pytest.raises(RecordError, match=r"rounds\.parquet is missing"):
        folder.load()


def test_a_table_under_another_name_is_refused(small, tmp_path):
    folder = small.write(tmp_path / "run")
    shutil.copy(folder.path / "steps.parquet", folder.path / "rounds.parquet")
    with pytest.raises(RecordError, match="is not the table rounds"):
        folder.load()


def test_a_newer_schema_is_refused(small, tmp_path):
    folder = small.write(tmp_path / "run")
    path = folder.path / "rounds.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"unnoticed.schema_version": b"99"}), path)
    with pytest.raises(RecordError, match="schema version 99; this release reads version"):
        folder.load()


@pytest.mark.parametrize("trial_id", ["", "../x", "a/b", ".hidden"])
def test_an_id_that_would_leave_the_folder_is_refused(tmp_path, trial_id):
    with pytest.raises(RecordError, match="Trial id"):
        RunFolder(tmp_path).trial_path(trial_id)


def test_rows_of_another_trial_are_refused(small, tmp_path):
    folder = RunFolder(tmp_path)
    tables = small.trial(CLAIM, 0)
    with pytest.raises(RecordError, match="rows of another trial"):
        folder.write_trial("other", {**tables, "trials": tables["trials"].assign(trial_id="other")})
    with pytest.raises(RecordError, match="must have one row"):
        folder.write_trial("other", {"rounds": tables["rounds"]})
    assert not folder.recorded()


def test_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(RecordError, match=r"not the folder of a run, since run\.json"):
        RunFolder(tmp_path).run()
    with pytest.raises(RecordError, match="no trial has been recorded"):
        RunFolder(tmp_path).load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2; this release reads version 1"),
        ({"colour": "red"}, "colour"),
        ({"clauses": [{"metric": "x", "statistic": "mode", "bound": "equals", "value": 1}]}, "statistic 'mode'"),
        ({"budgets": [{"metric": "x", "statistic": "max", "bound": "below", "value": 1}]}, "bound 'below'"),
    ],
)
def test_a_run_file_with_a_mistake_is_an_error_that_names_it(change, message):
    text = json.dumps({**json.loads(Run(name="x").to_json()), **change})
    with pytest.raises(RecordError, match=message):
        run_from_json(text, source="run.json")


def test_a_factor_that_is_a_number_in_one_trial_and_a_text_in_another_becomes_text(small, tmp_path):
    folder = RunFolder(tmp_path)
    for repeat, value in ((0, 5), (1, "many")):
        tables = small.trial(CLAIM, repeat)
        trials = tables["trials"].assign(**{"clients.count": [value]})
        folder.write_trial(small.trial_id(CLAIM, repeat), {**tables, "trials": trials})
    assert folder.gather().trials["clients.count"].tolist() == ["5.0", "many"]
