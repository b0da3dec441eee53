"""The page of the board in Chromium: figures of any size fit, and it says what it has seen."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from app.features.board.routes import board_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.slow,  # each test starts a browser
]

WIDTHS = (320, 360, 600, 768, 920, 1110, 1280, 1600)
BOUNDS = [0.001, 0.01, 0.1, 1, 10, 100, 1_000, 10_000, None]
TITLE = "A service with a name that is as long as a name can be"
LONG_ROUTE = (
    "DELETE /v1/organizations/{organization_id}/very-long-collections/{collection_id}/x" * 2
)
PATIENCE_SECONDS = 120

# Runs in each frame before the page: the page hears the messages of a scene instead of the server.
STUB = """
window.EventSource = class { constructor() { window.source = this; this.readyState = 0; } };
"""
# Runs in the outer page, when all frames are loaded. A text is outside if its card, its own element
# or the window ends before it does, and two texts that overlap cannot be read.
MEASURE = """
function texts(root) {
  const walker = root.ownerDocument.createTreeWalker(root, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const range = root.ownerDocument.createRange(), node = walker.currentNode;
    if (!node.data.trim() || node.parentElement.closest("pre, script, [hidden]")) continue;
    range.selectNodeContents(node);
    for (const box of range.getClientRects())
      if (box.width) found.push({ text: node.data.trim(), box, element: node.parentElement });
  }
  return found;
}
const outside = (inner, outer) => inner.left < outer.left - 1 || inner.right > outer.right + 1;
const overlap = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
  && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
function misplaced(page) {
  const wrong = [];
  for (const card of page.querySelectorAll("header, main > section, .notice, footer")) {
    const all = texts(card), style = page.defaultView.getComputedStyle(card);
    let { left, right } = card.getBoundingClientRect();
    left += parseFloat(style.paddingLeft); right -= parseFloat(style.paddingRight);
    all.forEach(({ text, box, element }, i) => {
      const own = element.getClientRects().length === 1 ? element.getBoundingClientRect() : box;
      if (outside(box, { left, right }) || outside(box, own)) wrong.push(text);
      for (const other of all.slice(i + 1))
        if (overlap(box, other.box)) wrong.push(`${text} / ${other.text}`);
    });
  }
  const root = page.documentElement;
  if (root.scrollWidth > root.clientWidth) wrong.push("the page is wider than the window");
  return wrong;
}
for (const scene in given.scenes) for (const width of given.widths) {
  const frame = Object.assign(document.createElement("iframe"), { width, height: 900 });
  frame.dataset.scene = scene;
  frame.srcdoc = given.page;
  document.body.append(frame);
}
window.onload = () => {
  const results = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const inner = frame.contentWindow, page = frame.contentDocument;
    for (const message of given.scenes[frame.dataset.scene])
      if (message) inner.source.onmessage({ data: JSON.stringify(message) });
      else inner.source.onerror();
    const shown = {};
    for (const element of page.querySelectorAll("[id], h1, h1 + p, tbody"))
      shown[element.id || element.localName] = element.textContent.trim();
    (results[frame.dataset.scene] ??= {})[frame.width] = { wrong: misplaced(page), shown };
  }
  document.body.textContent = JSON.stringify(results);
};
"""

Message = dict[str, Any]


def message(at: int, counts: Mapping[str, int], *, bucket: int = 4, **changed: object) -> Message:
    """Return the totals at a time. All requests were in one bucket of the histogram."""
    routes = {
        name: {
            "buckets": [0 if i < bucket else count * at for i in range(len(BOUNDS))],
            "failed": count * at if "/fails" in name else 0,
        }
        for name, count in counts.items()
    }
    requests = sum(counts.values()) * at
    return {
        "instance": "orders-7d4b9c6f5-x2x9z.a-long-domain.example.internal",
        "at": 1_800_000_000.5 + at,
        "bounds": BOUNDS,
        "routes": routes,
        "cache": dict.fromkeys(("hit_l1", "hit", "miss", "bypass"), requests),
        "statements": 12_345.0 * requests,
        "requests_with_statements": requests,
        "pool_max": 12_345.0,
        "pool_in_use": 12_345.0,
        "pool_waiting": 12_345.0,
        "pool_refused": 12_345.0 * at,
        "loop_lag": 0.123,
        "loop_blocked": 1_234_567.0,
        "diagnostics": 1_234_567.0,
        "memory": 1e12,
        "workers": 128.0,
        **changed,
    }


def messages(*times: int, rate: int = 63, **changed: Any) -> list[Message]:
    counts = {"GET /v1/users/me": rate, LONG_ROUTE: rate, "GET /fails": rate}
    return [message(at, counts, **changed) for at in times]


SCENES: dict[str, list[Message | None]] = {
    "before the first message": [],
    "empty": [message(1, {}), message(2, {})],
    "after one second": [*messages(1, 2)],
    "after 40 s": [*messages(*range(1, 42))],
    "after 2 min": [*messages(*range(1, 130))],
    "after a gap": [*messages(*range(1, 42), *range(80, 101))],
    "another instance": [*messages(*range(1, 42)), *messages(*range(45, 51), instance="web-2")],
    "quiet": [*messages(*range(1, 42), rate=0)],
    "connection lost": [*messages(*range(1, 42)), None],
    "never connected": [None],
    **{f"p99 in bucket {i}": [*messages(1, 2, bucket=i, rate=12_345)] for i in range(len(BOUNDS))},
    **{f"{rate} requests": [*messages(1, 2, rate=rate)] for rate in (1, 411_522, 123_456_789)},
}


@dataclass(frozen=True)
class Shown:
    """A scene at one width: the texts that are not where they belong, and those of the ids."""

    wrong: list[str]
    shown: dict[str, str]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, Shown]]:
    """Show all scenes in Chromium, each in frames of all widths."""
    folder = tmp_path_factory.mktemp("board")
    page = board_page(TITLE, "production").replace(
        "<script>", f"<script>{STUB}</script><script>", 1
    )
    given = json.dumps({"page": page, "scenes": SCENES, "widths": WIDTHS}).replace("</", r"<\/")
    document = folder / "scenes.html"
    document.write_text(
        f'<meta charset="utf-8"><body><script>const given = {given};{MEASURE}</script>',
        encoding="utf-8",
    )
    assert CHROMIUM
    options = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}", "--dump-dom"),
    )
    dump = subprocess.run(
        [CHROMIUM, *options, document.as_uri()],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=PATIENCE_SECONDS,
        check=True,
        encoding="utf-8",
    ).stdout
    found = re.search(r"<body>(.*)</body>", dump, re.DOTALL)
    assert found
    results = json.loads(html.unescape(found[1]))
    return {
        scene: {int(width): Shown(**shown) for width, shown in widths.items()}
        for scene, widths in results.items()
    }


def test_every_text_is_inside_its_card_at_every_width(
    scenes: dict[str, dict[int, Shown]],
) -> None:
    assert scenes.keys() == SCENES.keys()
    for scene, widths in scenes.items():
        found = {width: shown.wrong for width, shown in widths.items()}
        assert found == {width: [] for width in WIDTHS}, scene


@pytest.mark.parametrize(
    ("scene", "time"),
    [
        ("after one second", "in the last 1 s"),
        ("after 40 s", "in the last 40 s"),
        ("after 2 min", "in 2 min"),
        ("after a gap", "in the 60 s seen"),
        ("another instance", "in the last 5 s"),
        ("connection lost", "in the last 40 s"),
    ],
)
def test_page_names_the_time_that_it_saw(
    scenes: dict[str, dict[int, Shown]], scene: str, time: str
) -> None:
    shown = scenes[scene][1280].shown
    for note in ("rate-note", "p50-note", "p99-note", "failed-note"):
        assert shown[note].startswith(f"most {time}: ")


def test_page_says_nothing_about_a_time_that_it_did_not_see(
    scenes: dict[str, dict[int, Shown]],
) -> None:
    for scene in ("before the first message", "never connected"):
        shown = scenes[scene][1280].shown
        assert [shown[name] for name in ("rate-note", "failed-note", "lag-note")] == [""] * 3
        assert shown["routes-note"] == "by p99"
    assert scenes["quiet"][1280].shown["failed-note"] == "none in the last 40 s"


def test_page_says_which_service_and_which_instance_it_shows(
    scenes: dict[str, dict[int, Shown]],
) -> None:
    shown = scenes["another instance"][1280].shown
    assert shown["h1"] == TITLE
    assert shown["p"] == "Live board · production"
    assert shown["process"].startswith("web-2 · 128 workers")


def test_a_p99_of_any_size_is_written_in_few_characters(
    scenes: dict[str, dict[int, Shown]],
) -> None:
    shown = [scenes[f"p99 in bucket {i}"][1280].shown["p99"] for i in range(len(BOUNDS))]
    assert shown == [
        *("< 1 ms", "9.9 ms", "99 ms", "991 ms", "9.91 s", "99.1 s", "991.0 s", "9,910.0 s"),
        "> 10,000 s",
    ]
