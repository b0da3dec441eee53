"""Writes the texts of the demo data: templates, filled with the phrases of a topic.

Every choice comes from the generator that is passed in: equal seeds give equal text. The phrases
are in demo_topics.toml, and the templates beside the modules in dev/demo.
"""

import tomllib
from collections.abc import Iterator, Sequence
from itertools import islice
from math import log
from pathlib import Path
from random import Random
from typing import Any

PHRASES = tomllib.loads(Path(__file__).with_name("demo_topics.toml").read_text(encoding="utf-8"))
TOPICS: list[dict[str, list[str]]] = PHRASES["topics"]
CORPUS_SENTENCES = 4_000  # of each topic
MAX_SENTENCES = 120


def read_templates(module: str) -> dict[str, Any]:
    """Return the templates of a module in dev/demo, from the file of the same name."""
    return tomllib.loads(Path(module).with_suffix(".toml").read_text(encoding="utf-8"))


class Topic:
    """A hobby to write about."""

    def __init__(self, rng: Random, phrases: dict[str, list[str]]) -> None:
        self._rng = rng
        self._phrases = {slot: _shuffled(rng, choices) for slot, choices in phrases.items()}

    def lines(self, *templates: Sequence[str]) -> Iterator[list[str]]:
        """Write a line from each list of templates, all of them with the same phrases."""
        shuffled = [_shuffled(self._rng, choices) for choices in templates]
        while True:
            phrases = {slot: next(choices) for slot, choices in self._phrases.items()}
            yield [_fill(next(choices), phrases) for choices in shuffled]

    def passages(
        self, templates: Sequence[str], *, median: float, spread: float, paragraph_ends: float = 0
    ) -> Iterator[str]:
        """Write texts with a number of sentences that varies around `median`.

        Some thousand sentences are written once, and each text is a passage of these: composing
        400,000 texts sentence by sentence would take minutes. `paragraph_ends` is the share of the
        sentences after which a paragraph ends.
        """
        rng = self._rng
        sentences = [
            line + ("\n\n" if rng.random() < paragraph_ends else " ")
            for [line] in islice(self.lines(templates), CORPUS_SENTENCES)
        ]
        while True:
            wanted = round(rng.lognormvariate(log(median), spread))
            count = min(max(1, wanted), MAX_SENTENCES)
            start = rng.randrange(len(sentences) - count)
            yield "".join(sentences[start : start + count]).rstrip()


def topics(rng: Random) -> list[Topic]:
    return [Topic(rng, PHRASES["phrases"] | topic) for topic in TOPICS]


def _shuffled(rng: Random, choices: Sequence[str]) -> Iterator[str]:
    """Yield the choices in random order for ever; each once before any is repeated."""
    while True:
        yield from rng.sample(choices, len(choices))


def _fill(template: str, phrases: dict[str, str]) -> str:
    text = template.format_map(phrases)
    return text[0].upper() + text[1:]
