"""Writes the names, titles, posts and comments of the demo data.

The phrases are in demo_text.toml, and every choice comes from the generator that is passed in:
equal seeds give equal text.
"""

import tomllib
from collections.abc import Iterator
from itertools import islice
from math import log
from pathlib import Path
from random import Random

TEXT = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
CORPUS_SENTENCES = 4_000  # of each topic, for posts and again for comments
MAX_SENTENCES = 120


class Topic:
    """A hobby to write about.

    It writes some thousand sentences once. A post or comment is a passage of these, because
    composing 400,000 texts sentence by sentence would take minutes.
    """

    def __init__(self, rng: Random, phrases: dict[str, list[str]]) -> None:
        self._rng = rng
        self._phrases = {slot: _shuffled(rng, choices) for slot, choices in phrases.items()}
        self._titles = _shuffled(rng, TEXT["titles"])
        self._openings = _shuffled(rng, TEXT["openings"])
        self._sentences = self._write(TEXT["sentences"], share_of_paragraph_ends=0.2)
        self._replies = self._write(TEXT["replies"], share_of_paragraph_ends=0)

    def post(self) -> tuple[str, str]:
        """Return a title and a body that begins with what the title says."""
        phrases = self._draw_phrases()
        opening = _fill(next(self._openings), phrases)
        body = self._passage(self._sentences, self._rng.lognormvariate(log(6.4), 0.9))
        return _fill(next(self._titles), phrases), f"{opening} {body}"

    def comment(self) -> str:
        return self._passage(self._replies, self._rng.lognormvariate(log(1.9), 0.5))

    def bio(self) -> str:
        return _fill(self._rng.choice(TEXT["bios"]), self._draw_phrases())

    def _write(self, templates: list[str], share_of_paragraph_ends: float) -> list[str]:
        """Write sentences, each with the white space that follows it."""
        sentences = []
        for template in islice(_shuffled(self._rng, templates), CORPUS_SENTENCES):
            ends_paragraph = self._rng.random() < share_of_paragraph_ends
            end = "\n\n" if ends_paragraph else " "
            sentences.append(_fill(template, self._draw_phrases()) + end)
        return sentences

    def _passage(self, sentences: list[str], wanted: float) -> str:
        count = min(max(1, round(wanted)), MAX_SENTENCES)
        start = self._rng.randrange(len(sentences) - count)
        return "".join(sentences[start : start + count]).rstrip()

    def _draw_phrases(self) -> dict[str, str]:
        return {slot: next(choices) for slot, choices in self._phrases.items()}


def topics(rng: Random) -> list[Topic]:
    return [Topic(rng, TEXT["phrases"] | topic) for topic in TEXT["topics"]]


def full_name(rng: Random) -> str:
    language = rng.choice(TEXT["names"])
    return f"{rng.choice(language['first'])} {rng.choice(language['last'])}"


def _shuffled(rng: Random, choices: list[str]) -> Iterator[str]:
    """Yield the choices in random order for ever; each once before any is repeated."""
    while True:
        yield from rng.sample(choices, len(choices))


def _fill(template: str, phrases: dict[str, str]) -> str:
    text = template.format_map(phrases)
    return text[0].upper() + text[1:]
