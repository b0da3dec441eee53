"""Generates texts that every field of text has to keep as they are."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

BOUNDS = settings(
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def texts(longest: int, shortest: int = 1) -> st.SearchStrategy[str]:
    """Return any text without NUL and lone surrogates."""
    characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    return st.text(characters, min_size=shortest, max_size=longest)
