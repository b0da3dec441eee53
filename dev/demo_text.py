"""Writes the names, posts and comments of the demo data: plausible English about eight hobbies.

Every word comes from the lists below and every choice from the generator passed in, so equal
seeds give equal text.
"""

import re
import unicodedata
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice
from math import log
from random import Random

Words = dict[str, list[str]]

CORPUS_SENTENCES = 4_000  # of each topic and kind
MAX_BODY = 12_000

# One block per topic; a slot may take several lines.
TOPICS = """
task: pruning the old roses / turning the compost heap / growing tomatoes on a balcony
task: sowing beans too early / digging a small pond / mulching the raised beds
task: saving seed from the best plants / keeping lavender alive
thing: the watering can / the compost heap / a decent pair of secateurs / the cold frame
thing: the soil test / the rain barrel / the old greenhouse / the slug fence
tip: water before the sun is up / label every single pot / leave some weeds for the bees
tip: feed the soil and not the plant / plant half as much as planned / cut just above a bud
win: the first tomatoes turned red / the roses came back stronger than before
win: the hedgehogs moved in / we had our own salad for lunch / the bees found the borders
fail: the slugs found the lettuce overnight / the frost took all the seedlings
fail: the beans climbed everything except the poles / the pond turned bright green

task: feeding a sourdough starter / baking rye bread at home / folding croissant dough
task: making pasta without a machine / cooking for eight people / roasting vegetables properly
task: learning my grandmother's dumplings / perfecting a crème brûlée
thing: the kitchen scale / a cast-iron pot / the second rise / the oven thermometer
thing: the bread knife / the recipe card / the freezer drawer / a good pinch of salt
tip: weigh the water as well / rest the dough overnight / salt early and taste often
tip: trust the nose more than the clock / write every recipe down straight away
win: the crust finally crackled / even the children asked for seconds
win: the loaf doubled in size / the kitchen smelled like a bakery / the sauce came together
fail: the dough stuck to everything / the smoke alarm joined in / the middle was still raw
fail: I mistook the salt for the sugar / the starter escaped from its jar

task: training for a first half marathon / running before breakfast / running in the rain
task: getting back into shape after an injury / pacing a friend through ten kilometres
task: finding quiet trails near the city / doing hill repeats / slowing down on easy days
thing: the rest day / a new pair of shoes / the training plan / the heart rate monitor
thing: the last kilometre / the foam roller / the start line / the long Sunday run
tip: start slower than feels right / lay out the clothes the night before
tip: walk the steep parts / eat something before leaving / leave the watch at home
win: the hill felt flat for once / I finished with a smile / my knees stopped complaining
win: I ran ten kilometres without stopping / the whole group waited at the finish
fail: my left shoe came apart / I took a wrong turn and ran a lap too many
fail: the cramp arrived on the last hill / the rain turned the path into a river

task: photographing people in the street / developing film in the bathroom
task: shooting in bad weather / sorting ten years of pictures / printing at home
task: learning to see light / travelling with a single lens / taking portraits of my family
thing: the old film camera / a sturdy tripod / the golden hour / the wide lens
thing: the contact sheet / the light meter / the photo album / a clean background
tip: get up before the sun does / take one step closer / turn around before leaving
tip: ask before pressing the shutter / delete without mercy / wait for the second glance
win: the light broke through the clouds / one frame out of thirty was a keeper
win: my aunt framed the portrait / the print matched the screen / the street emptied in time
fail: the battery died at sunrise / I left the lens cap on / the whole roll came out blank
fail: every face was out of focus / the tripod blew over

task: moving a side project to PostgreSQL / writing tests for old code
task: deleting a feature nobody used / keeping a small server alive / naming things well
task: replacing a spreadsheet with a script / learning a second programming language
thing: the error log / the test suite / a nightly backup / the cache / the login page
thing: the migration / the build pipeline / a plain text file
tip: measure before you optimise / read the error message twice / write the test first
tip: make the smallest change that helps / restore a backup once in a while
win: the tests passed on the first run / the page loaded in the blink of an eye
win: a user wrote to say thank you / the fix was a single line / the nightly job went quiet
fail: the backup turned out to be empty / the clock changed and so did every report
fail: I had been editing the wrong file / the disk filled up at midnight

task: fixing a dripping tap / sanding the kitchen floor / hanging shelves on a crooked wall
task: painting the stairs / insulating the attic / restoring an old chair
task: tiling a tiny bathroom / repairing instead of replacing
thing: the spirit level / a borrowed drill / the toolbox / the second coat of paint
thing: the fuse box / the workbench / a roll of masking tape / the hardware shop
tip: measure twice / turn the water off first / buy one tile more than planned
tip: take a photo before taking anything apart / let it dry for a full day
win: the door closed without a sound / the tap stopped dripping / nobody noticed the patch
win: the shelf held all the cookbooks / the floor looked like new
fail: the wall turned out to be hollow / the paint dried in the wrong colour
fail: the last screw snapped / the drill found the only cable in the wall

task: crossing Europe by night train / planning a trip without flying
task: packing for two weeks in one bag / travelling with two small children
task: changing trains in a strange city / taking the slow line along the coast
thing: the window seat / a paper timetable / the dining car / the connection in Zürich
thing: the overnight bag / a good pair of earplugs / the rail pass / the station café
tip: book the lower bunk / leave an hour between trains / sit on the side of the sea
tip: learn how to say thank you everywhere / keep the tickets on paper as well
win: we woke up by the sea / a stranger shared her cherries with us
win: the mountains came out of the fog / the children slept all the way
fail: the train left from the other platform / the sleeping car was missing
fail: the tickets were at the bottom of the bag / the last bus had gone

task: learning the piano at forty / practising scales / singing in a small choir
task: tuning an old guitar / playing in front of other people / writing a song in a week
task: reading music properly / starting a band with the neighbours
thing: the metronome / the left hand / a second-hand cello / the practice room
thing: the sheet music / the sustain pedal / the chorus / a set of new strings
tip: play it slower / record everything and listen the next day / practise the hard bar first
tip: count out loud / stop while it still sounds good / sing the line before playing it
win: the hands finally worked together / the neighbours asked for an encore
win: the choir landed on the same note / I played it through without a stop
fail: a string snapped in the first bar / I lost count and never found it again
fail: the piano was a semitone flat / the drummer went home early
"""

COMMON = """
when: last weekend / a month ago / two weeks ago / on Sunday morning / last year
when: during the holidays / the other day / one rainy afternoon / a while ago
span: a whole weekend / two long evenings / most of a Sunday / the better part of an hour
span: three weeks / a month / an entire season / half a year
who: my neighbour / my sister / an old friend / someone at work / my father / my daughter
who: a stranger on the train / a woman at the market / my former teacher / my flatmate
twist: on a budget / when time is short / without any talent / as a complete beginner
twist: for the second time / without losing heart / against all advice / step by step
role: nurse / teacher / retired engineer / student / carpenter / translator / bus driver
role: librarian / father of three / data analyst / gardener / beekeeper / postman
city: Lisbon / Kraków / Glasgow / Montréal / Nairobi / Osaka / São Paulo / Utrecht / Leeds
"""

# Given and family names of one language, in the order in which they are written.
NAMES = """
Olivia James Amelia Noah Grace Ethan Harriet Samuel | Smith Taylor Walker Hughes O'Brien Reid
Zoë Lukas Käthe Jürgen Annika Björn Heike Günther | Müller Schäfer Weiß Köhler Groß Becker
Søren Astrid Åsa Bjørn Maja Øyvind Linnéa Nils | Ødegård Lindström Sørensen Dahl Håkansson
José Lucía Iñigo Sofía Álvaro Martín Begoña Andrés | García Muñoz Ibáñez Peña Rodríguez Núñez
João Inês Thaís Caio Luísa André Conceição Vítor | Gonçalves Araújo Magalhães Simões Brandão
Chloé François Maëlle Rémi Anaïs Hélène Gaël Loïc | Lefèvre Dubois Béranger Garçon Moreau
Łukasz Zofia Wojciech Małgorzata Michał Grażyna | Nowak Wójcik Mazur Wróbel Zając Gołąb
Ayşe Çağlar Gökhan Şule İbrahim Elif Özlem Umut | Çelik Öztürk Şahin Doğan Güneş Yüce
Thảo Minh Hương Đức Phượng Quân Linh Tuấn | Nguyễn Trần Phạm Đặng Huỳnh Bùi
Priya Arjun Ananya Rohan Meera Vikram Kavya Imran | Sharma Patel Iyer Khan Banerjee Nair
Chidi Adaeze Kwame Amara Thabo Zanele Kofi Nia | Okafor Mensah Dlamini Nkosi Owusu Diallo
Олена Дмитро Катерина Богдан Юлія | Шевченко Бондаренко Коваленко Ткаченко Мельник
佐藤 鈴木 高橋 田中 山本 | 花子 健太 美咲 翔太 結衣
""".strip().splitlines()

BIOS = """
{role} from {city}. Ask me about {thing}.
{role} in {city}, mostly here for {task}.
{role} by day, {task} by night.
Trying to get better at {task}.
{city}. I write about {thing} and everything around it.
""".strip().splitlines()

TITLES = """
What I learned from {task} {twist}
{task}: notes after {span}
Why {who} stopped worrying about {thing}
{task} without {thing}
Is {thing} really worth it when {task}?
Three mistakes I made while {task}
How {who} got me into {task}
{thing}, {span} later
The day {fail} and {who} helped
How do you deal with {thing} {twist}?
{when}, {win}
A short guide to {task} {twist}
Help: {fail} {when}
In praise of {thing} when {task}
{task}, or what to do with {span}
{who}, {thing} and me
""".strip().splitlines()

OPENINGS = """
I never planned on {task}, but here we are.
{when} I finally got round to {task}.
This is mostly a story about {thing}.
People keep asking me about {task}, so here is the long answer.
A small report on {task}, for anyone who is in two minds about it.
I owe my interest in {task} to {who}.
It all began {when}, with {thing}.
After {span} I think I have something to say about {thing}.
""".strip().splitlines()

SENTENCES = """
I spent {span} {task}, and {win}.
{who} told me to {tip}, which sounded odd until {win}.
If you remember only one thing, remember to {tip}.
I used to think that {task} was a matter of luck.
The part nobody mentions is {thing}.
It took {span} before {win}.
My rule is simple now: {tip}.
Nothing about {task} is difficult, but all of it takes patience.
{when} {win}, and I have {who} to thank for it.
I keep a notebook about {thing}, mostly to stop making the same mistake.
{who} swears by {thing}; I am still not convinced.
After {span} I would do it the same way again.
Whatever you do, do not start with {thing}.
You can do without {thing} for a while, but it catches up with you.
Looking back, {thing} mattered far less than I expected.
There is a quiet pleasure in {task}.
The first attempt went badly: {fail}.
Then {fail}, and I nearly gave up.
Still, {win}.
What surprised me most was {thing}.
{who} asked why I bother with {task}, and I had no short answer.
It costs next to nothing, apart from the time.
I am no expert, so correct me if this is wrong.
So this time I decided to {tip}.
Once {win}, {task} stopped feeling like a chore.
For {span} I ignored {thing} completely.
Some days all goes well, and some days {fail}.
I wish I had known from the start to {tip}.
With {thing} out of the way, {task} is easier than it looks.
The trick, as far as there is one, is to {tip}.
Is it perfect? No, but {win}.
{when} I wrote down everything I know about {thing}; it filled half a page.
I have read three books on {task}, and they agree on almost nothing.
By the end of the week {win}.
Of course {fail} the moment {who} came to watch.
Sooner or later everyone who tries {task} learns to {tip}.
""".strip().splitlines()

REPLIES = """
Thank you for writing about {task}, it came at just the right moment.
{task} is exactly where I am stuck.
The same thing happened to me: {fail}.
In my experience it pays to {tip}.
Did you do anything special about {thing}?
I would not worry too much about {thing} while {task}.
Same here: {win}, and I have not looked back.
{who} taught me to {tip}, and it has never failed me.
How long did it take you to get used to {thing}?
A small correction: it is better to {tip}, at least where I live.
I disagree about {thing}, but the rest is spot on.
This makes me want to try {task} again.
Could you post a photo of {thing}? I would love to see it.
I had to laugh, because only last week {fail}.
How did you get on with {thing} afterwards?
It took me {span} to learn that.
I can report that after {span} {win}.
Please write more about {task}.
My experience with {thing} was the opposite, but I may have been unlucky.
I gave up on {task} years ago, and now I am tempted.
Good point about {thing}; {who} always says the same.
For what it is worth, {who} says to {tip}.
""".strip().splitlines()

# Letters that Unicode does not take apart into a plain one and an accent.
UNDECOMPOSED = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ß": "ss"})


class Deck:
    """Deals phrases at random, but none again soon: what was dealt goes below the upper half."""

    def __init__(self, rng: Random, cards: list[str]) -> None:
        self._rng, self._cards = rng, rng.sample(cards, len(cards))

    def deal(self) -> str:
        """Take one from the upper half."""
        card = self._cards.pop(self._rng.randrange((len(self._cards) + 1) // 2))
        self._cards.append(card)
        return card


class Slots(dict[str, str]):
    """Draws a phrase when its slot is first used and keeps it, so that a title suits its text."""

    def __init__(self, decks: dict[str, Deck]) -> None:
        self._decks = decks

    def __missing__(self, slot: str) -> str:
        self[slot] = phrase = self._decks[slot].deal()
        return phrase

    def fill(self, template: str) -> str:
        """Return the template as a sentence."""
        text = template.format_map(self)
        return text[0].upper() + text[1:]


class Prose:
    """A long text to cut passages from, which costs far less than writing each of them."""

    def __init__(self, sentences: Iterable[str]) -> None:
        pieces = list(sentences)
        self._text = "".join(pieces)
        self._starts = list(accumulate(map(len, pieces), initial=0))

    def passage(self, rng: Random, length: float) -> str:
        """Return whole sentences of together at most `length` characters, but at least one."""
        first = rng.randrange(len(self._starts) - 1)
        start = self._starts[first]
        last = max(first + 1, bisect_right(self._starts, start + length) - 1)
        return self._text[start : self._starts[last]].rstrip()


class Topic:
    """A subject to write about, with its vocabulary."""

    def __init__(self, rng: Random, words: Words) -> None:
        self._rng = rng
        self._words = {slot: Deck(rng, phrases) for slot, phrases in words.items()}
        self._titles, self._openings = Deck(rng, TITLES), Deck(rng, OPENINGS)
        self._article = Prose(self._paragraphs(SENTENCES))
        self._talk = Prose(self._sentences(REPLIES))

    def post(self) -> tuple[str, str]:
        """Write a title and a body."""
        slots = Slots(self._words)
        title, opening = slots.fill(self._titles.deal()), slots.fill(self._openings.deal())
        length = min(MAX_BODY, self._rng.lognormvariate(log(480), 0.9))
        return title, f"{opening} {self._article.passage(self._rng, length)}"

    def comment(self) -> str:
        """Write a reply to any post."""
        return self._talk.passage(self._rng, self._rng.lognormvariate(log(150), 0.6))

    def bio(self) -> str:
        """Write what somebody with this interest says of themselves."""
        return Slots(self._words).fill(self._rng.choice(BIOS))

    def _sentences(self, templates: list[str]) -> Iterator[str]:
        deck = Deck(self._rng, templates)
        for _ in range(CORPUS_SENTENCES):
            yield Slots(self._words).fill(deck.deal()) + " "

    def _paragraphs(self, templates: list[str]) -> Iterator[str]:
        sentences = self._sentences(templates)
        while paragraph := list(islice(sentences, self._rng.randint(3, 6))):
            *body, last = paragraph
            yield from (*body, last.rstrip() + "\n\n")


def topics(rng: Random) -> list[Topic]:
    """Prepare all topics."""
    common = _words(COMMON)
    return [Topic(rng, common | _words(block)) for block in TOPICS.split("\n\n")]


def person(rng: Random) -> tuple[str, str]:
    """Make up a name, and its plain form for an e-mail address."""
    name = " ".join(rng.choice(part.split()) for part in rng.choice(NAMES).split(" | "))
    folded = unicodedata.normalize("NFKD", name.lower().translate(UNDECOMPOSED))
    plain = folded.encode("ascii", "ignore").decode()
    return name, re.sub(r"[^a-z]+", ".", plain).strip(".") or "member"


def _words(block: str) -> Words:
    words: Words = defaultdict(list)
    for line in block.strip().splitlines():
        slot, phrases = line.split(": ")
        words[slot] += phrases.split(" / ")
    return words
