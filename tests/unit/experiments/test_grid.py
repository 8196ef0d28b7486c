import pytest

from unnoticed.experiments.planning.plan import load_plan, trials


def identity(trial):
    return (trial.id, trial.repeat, trial.case, tuple(trial.factors.items()))


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(
        'question = "?"\nrepeats = 4\nseed = 3\n[guest]\ndirty_rate = ["0 MiB/s", "20 MiB/s"]\n'
        'memory = ["128 MiB", "256 MiB"]\n'
    )
    return path


def test_the_same_seed_gives_the_same_trials_in_the_same_order(plan):
    assert [identity(trial) for trial in trials(load_plan(plan))] == [
        identity(trial) for trial in trials(load_plan(plan))
    ]


def test_another_seed_gives_another_order(plan):
    orders = {
        tuple(identity(trial) for trial in trials(load_plan(plan, overrides=[f"seed={seed}"]))) for seed in range(5)
    }
    assert len(orders) > 1


def test_each_repeat_is_a_block_with_every_setting_once(plan):
    made = trials(load_plan(plan))
    assert [trial.repeat for trial in made] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    for repeat in range(4):
        block = [tuple(trial.factors.values()) for trial in made if trial.repeat == repeat]
        assert sorted(block) == [
            ("0 MiB/s", "128 MiB"),
            ("0 MiB/s", "256 MiB"),
            ("20 MiB/s", "128 MiB"),
            ("20 MiB/s", "256 MiB"),
        ]


def test_the_blocks_are_not_all_in_the_same_order(plan):
    made = trials(load_plan(plan, repeats=20))
    orders = {tuple(tuple(trial.factors.values()) for trial in made[start : start + 4]) for start in range(0, 80, 4)}
    assert len(orders) > 5


def test_more_repeats_only_append_trials(plan):
    few, many = trials(load_plan(plan, repeats=2)), trials(load_plan(plan, repeats=6))
    assert [identity(trial) for trial in many[: len(few)]] == [identity(trial) for trial in few]


def test_the_order_is_pinned_so_that_old_runs_can_be_resumed(plan):
    assert [trial.id for trial in trials(load_plan(plan))[:4]] == PINNED


def test_ids_are_unique_and_can_name_a_folder():
    made = trials(load_plan("claim"))
    assert len({trial.id for trial in made}) == len(made)
    assert all(trial.id.replace("-", "").isalnum() for trial in made)


def test_a_factor_that_a_case_adds_has_its_default_in_the_others():
    made = trials(load_plan("claim"))
    thresholds = {trial.case: trial.factors["migration.threshold"] for trial in made}
    assert thresholds["threshold policy"] == "256 KiB"
    assert thresholds["the claim"] is None


PINNED = ["0001-0-mib-s-256-mib", "0002-20-mib-s-128-mib", "0003-0-mib-s-128-mib", "0004-20-mib-s-256-mib"]
