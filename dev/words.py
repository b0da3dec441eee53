"""The name of a resource in all its forms, and how source text is renamed from one to another."""

import io
import re
import tokenize
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

# Nouns that end in -s and are no plurals, or whose singular has the same form.
_NO_PLURALS = {
    *("alias", "atlas", "bias", "canvas", "chaos", "gas", "lens"),
    *("means", "news", "series", "species"),
}
_IRREGULAR = {
    "aliases": "alias",
    "atlases": "atlas",
    "caches": "cache",
    "canvases": "canvas",
    "children": "child",
    "cookies": "cookie",
    "gases": "gas",
    "lenses": "lens",
    "men": "man",
    "movies": "movie",
    "people": "person",
    "quizzes": "quiz",
    "shoes": "shoe",
    "women": "woman",
}
# The first rule that matches the end of a word gives the end of its singular, or None if English
# has words of both kinds, such as shelves/shelf and valves/valve.
_RULES: tuple[tuple[str, str | None], ...] = (
    (r"us|is|ss|ics", None),
    (r"(?P<stem>[^aeiou])ies", r"\g<stem>y"),
    (r"(?P<stem>ss|x|sh|ch|zz)es", r"\g<stem>"),
    (r"(?P<stem>ou|au)ses", r"\g<stem>se"),
    (r"uses", "us"),
    (r"(aly|e|gno|cri)ses", None),
    (r"(l|ea|ar|oa|kni|wi)ves", None),
    (r"oes", "o"),
    (r"(?P<stem>.)s", r"\g<stem>"),
)

_STARTS_WITH_VOWEL = re.compile(r"(?!eu|one)[aeio]|u(?!ni|s)|hour|hono")


def singular_of(plural: str) -> str | None:
    """Return the singular of a noun in snake_case, or None if the rules cannot tell it."""
    head, _, word = plural.rpartition("_")
    if word in _NO_PLURALS:
        return None
    singular = _IRREGULAR.get(word) or _regular_singular(word)
    return f"{head}_{singular}".lstrip("_") if singular else None


def _regular_singular(word: str) -> str | None:
    for ending, replacement in _RULES:
        if found := re.fullmatch(f"(.*)(?:{ending})", word):
            return None if replacement is None else found[1] + found.expand(replacement)
    return None


@dataclass(frozen=True)
class Words:
    """A noun in both numbers, in snake_case."""

    singular: str
    plural: str


def camel(snake: str) -> str:
    return "".join(part.capitalize() for part in snake.split("_"))


def spoken(snake: str) -> str:
    return snake.replace("_", " ")


def hyphenated(snake: str) -> str:
    return snake.replace("_", "-")


def rename_words(source: str, old: Words, new: Words) -> str:
    """Rename a noun of one word in Python source: in code, strings, comments and docstrings.

    In prose, two words are separated by a space, and a or an fits the new noun. In a path, they
    are separated by a hyphen. These stay:

    - the singular as a whole string or after `=`, such as the value `"draft"` of a status
    - the singular in capitals without an underscore, such as `POST` or the member `DRAFT`
    - a method of an HTTP client or a router, such as `client.post`
    """
    renaming = _Renaming(source, old, new)
    return renaming.pattern.sub(renaming.replace, source)


class _Renaming:
    """Replaces the matches of `pattern` in a source."""

    def __init__(self, source: str, old: Words, new: Words) -> None:
        self.source, self.new, self.plural = source, new, old.plural
        lower = rf"(?<![A-Za-z])(?:{old.plural}|{old.singular})(?![a-z])"
        title = rf"(?<![A-Z])(?:{camel(old.plural)}|{camel(old.singular)})(?![a-z])"
        upper = rf"(?<![A-Za-z])(?:{old.plural.upper()}|{old.singular.upper()})(?![A-Za-z])"
        article = r"(?:(?<![A-Za-z])(?P<article>[Aa]n?)(?P<gap>_|\s+`?))?"
        self.pattern = re.compile(
            f"{article}(?:(?P<lower>{lower})|(?P<title>{title})|(?P<upper>{upper}))"
        )
        self.texts = _strings_and_comments(source)
        self.starts = [start for start, _ in self.texts]

    def replace(self, match: re.Match[str]) -> str:
        word = match["lower"] or match["title"] or match["upper"]
        is_plural = word.lower() == self.plural
        snake = self.new.plural if is_plural else self.new.singular
        start, end = match.end() - len(word), match.end()
        before, after = self.source[:start], self.source[end:]
        text = self._text_around(start)
        if not is_plural and self._stays(word, before, after):
            return match[0]
        if match["upper"]:
            written = snake.upper()
        elif text is None:
            written = camel(snake) if match["title"] else snake
        else:
            written = _in_text(text, before, after, snake, is_title=bool(match["title"]))
        if match["article"] is None:
            return written
        article = match["article"][0] + ("n" if _STARTS_WITH_VOWEL.match(snake) else "")
        return article + match["gap"] + written

    def _stays(self, word: str, before: str, after: str) -> bool:
        if word.isupper():
            return not (before.endswith("_") or after.startswith("_"))
        if before.endswith("=") and not after.startswith((".", "_", "(")):
            return self._text_around(len(before)) is not None
        if before.endswith(("'", '"')) and after.startswith(before[-1]):
            return word.islower()
        if word == "post" and before.endswith(".") and after.startswith("("):
            is_factory = re.search(r"(\b(make|self|tags)|Factory\([^()]*\))\.$", before)
            return is_factory is None
        return False

    def _text_around(self, offset: int) -> str | None:
        """Return the string or the comment that contains the offset, unless it is in braces."""
        number = bisect_right(self.starts, offset) - 1
        if number < 0 or offset >= self.texts[number][1]:
            return None
        start, end = self.texts[number]
        text = self.source[start:offset]
        return None if text.count("{") > text.count("}") else self.source[start:end]


def _in_text(text: str, before: str, after: str, snake: str, *, is_title: bool) -> str:
    """Return how a noun is written in a string or comment."""
    if before.endswith("/v1/"):
        return hyphenated(snake)
    is_code = (
        not re.search(r"\s", text.strip())
        or re.search(r"[\w/:.]\Z", before)
        or re.match(r"\w|[:./]\w", after)
        or before[before.rfind("\n") + 1 :].count("`") % 2
        or re.search(r"\b(INSERT INTO|SELECT|DELETE FROM|UPDATE)\b", text)
    )
    if is_code:
        return camel(snake) if is_title else snake
    return spoken(snake).capitalize() if is_title else spoken(snake)


def _strings_and_comments(source: str) -> list[tuple[int, int]]:
    """Return where each string and each comment starts and ends."""
    starts = [0, *accumulate(len(line) for line in io.StringIO(source))]
    found, depth, first = list[tuple[int, int]](), 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "FSTRING_START":  # from Python 3.12 on, an f-string has several tokens
            depth += 1
            first = token.start if depth == 1 else first
        elif kind == "FSTRING_END":
            depth -= 1
        elif kind in {"STRING", "COMMENT"}:
            first = first if depth else token.start
        else:
            continue
        if depth == 0:
            places = (first, token.end)
            start, end = (starts[line - 1] + column for line, column in places)
            found.append((start, end))
    return found
