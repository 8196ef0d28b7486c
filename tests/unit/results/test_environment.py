from __future__ import annotations

import json

from unnoticed.results.environment import differences, flatten, gather


def test_the_environment_of_this_machine_is_json_and_names_what_moves_results():
    environment = json.loads(json.dumps(gather(machine_noise={"worst_stall_ns": 5})))
    flat = flatten(environment)
    for name in ("kernel.release", "cpu.model", "cpu.count", "memory_bytes", "python", "packages.numpy", "tools.ip"):
        assert flat[name]
    assert flat["machine_noise.worst_stall_ns"] == "5"
    assert flat["packages.numpy"] != "unknown"


def test_an_environment_does_not_differ_from_itself_taken_again():
    assert differences(gather(), gather(machine_noise={"worst_stall_ns": 1})) == []


def test_what_differs_is_named_and_what_is_absent_is_unknown():
    first = {"kernel": {"release": "6.1"}, "taken_utc": "a", "tools": {"ip": None}}
    second = {"kernel": {"release": "6.7"}, "taken_utc": "b", "tools": {"ip": "5"}, "python": "3"}
    assert [(each.name, each.first, each.second) for each in differences(first, second)] == [
        ("kernel.release", "6.1", "6.7"),
        ("tools.ip", "unknown", "5"),
        ("python", "unknown", "3"),
    ]
