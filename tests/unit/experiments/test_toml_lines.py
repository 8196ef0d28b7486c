import tomllib

from hypothesis import given
from hypothesis import strategies as st

from unnoticed.experiments.planning.document import toml_text
from unnoticed.experiments.planning.toml_lines import locate


def test_every_way_of_writing_a_key_is_found_on_its_line():
    text = '''# a comment with [brackets] and "quotes
question = "one # two"   # no [table]

[guest]
memory = "256 MiB"
dirty_rate = [   # a factor
    "0 MiB/s",

    "20 MiB/s", # last
]
text = """
[not.a.table]
also = "not" """
[clients]
request_response = { connections = 10, rate = "1 kHz" }
"quoted key".'other' = 3
download.connections = 1

[[case]]
name = "one"
[case.migration]
gap = "drop"

[[case]]
migration.announce = "none"
'''
    tomllib.loads(text)
    lines = locate(text)
    assert lines["question",] == 2
    assert lines["guest",] == 4
    assert lines["guest", "memory"] == 5
    assert lines["guest", "dirty_rate"] == 6
    assert lines["guest", "dirty_rate", 0] == 7
    assert lines["guest", "dirty_rate", 1] == 9
    assert lines["clients", "request_response", "rate"] == 15
    assert lines["clients", "quoted key", "other"] == 16
    assert lines["clients", "download", "connections"] == 17
    assert lines["case", 0] == 19
    assert lines["case", 0, "name"] == 20
    assert lines["case", 0, "migration", "gap"] == 22
    assert lines["case", 1, "migration", "announce"] == 25
    assert ("not", "a") not in lines


def _paths(value, above=()):
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return
    for key, inner in items:
        yield (*above, key)
        yield from _paths(inner, (*above, key))


text_values = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
scalars = st.one_of(text_values, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=False))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text_values, inner, max_size=3)),
    max_leaves=8,
)
documents = st.dictionaries(text_values, values, max_size=4)


@given(document=documents)
def test_a_document_that_was_written_reads_back_the_same_and_every_path_has_a_line(document):
    text = toml_text(document)
    assert tomllib.loads(text) == document
    lines = locate(text)
    assert set(_paths(document)) == set(lines)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


@given(strings=st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=6), min_size=1, max_size=4))
def test_strings_of_all_four_kinds_do_not_hide_the_next_line(strings):
    lines = []
    for number, string in enumerate(strings):
        plain = string.replace("'", "").replace('"', "").replace("\\", "")
        lines += [f"a{number} = '{plain}'", f"b{number} = '''{plain}\n[x]'''", f'c{number} = """{plain}\\"\n""""']
    text = "\n".join([*lines, "last = 1"])
    tomllib.loads(text)
    assert locate(text)["last",] == text.count("\n") + 1
