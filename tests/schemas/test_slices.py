"""Slices of JSON: the very text of each part."""

import json

from hypothesis import given
from hypothesis import strategies as st

from schemas.slices import slices_of_array, slices_of_object

SPACES = st.text(" \t\n\r", max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
).map(json.dumps)


@given(st.lists(st.tuples(SPACES, VALUES, SPACES)), SPACES)
def test_elements_come_back_as_they_were_written(elements: list[tuple[str, str, str]], space: str) -> None:
    text = f"{space}[{','.join(map(''.join, elements)) or space}]{space}"
    assert slices_of_array(text) == [value for _, value, _ in elements]


@given(st.lists(st.tuples(SPACES, st.text(), SPACES, VALUES, SPACES)), SPACES)
def test_members_come_back_as_they_were_written_and_the_last_of_a_key_counts(
    members: list[tuple[str, str, str, str, str]], space: str
) -> None:
    written = [f"{a}{json.dumps(key)}{b}:{a}{value}{c}" for a, key, b, value, c in members]
    text = f"{space}{{{','.join(written) or space}}}{space}"
    assert slices_of_object(text) == {key: value for _, key, _, value, _ in members}
