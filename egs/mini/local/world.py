"""The mini world: English sentences with German translations, intents, sentiments and continuations, all by rule.

A sentence is `[ADVERB] the PERSON VERB the ADJECTIVE THING [PREPOSITION the PLACE]`, lower case, 6 to 10 words:

    yesterday the farmer repaired the wooden lamp near the church
    gestern hat der Bauer die hölzerne Lampe bei der Kirche repariert        intent repair, sentiment neutral

Every sentence belongs to one split by a checksum of its words, so no sentence can occur in two splits.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from lexicon import (
    ENGLISH,
    GERMAN_MOODS,
    GERMAN_RESULTS,
    MOODS,
    PREPOSITIONS,
    RESULTS,
    Adjective,
    Adverb,
    Lexicon,
    Noun,
    Verb,
)

SPLITS = ("train", "dev", "test")
NOMINATIVE = {"m": "der", "f": "die", "n": "das"}
ACCUSATIVE = {"m": "den", "f": "die", "n": "das"}
DATIVE = {"m": "dem", "f": "der", "n": "dem"}

# Each continuation names every content word of its sentence and the associate of each: what the continuation reads from
# the text is what behaviour alignment can teach. <...> holds what a sentence without adverb or place leaves out.
CONTINUATIONS = (
    "then the {person} with the {person_a}, who {verb} the {adj} {thing}< {prep} the {place}>< {adv}>, took the {verb_a},"
    " the {adj_a}, the {thing_a}<, the {place_a}><, the {adv_a}> and was {mood}, as it was {result}.",
    "everyone was {mood} about the {adj} {thing} with the {thing_a} and the {adj_a}, which the {person} {verb}< {adv}>"
    " with the {person_a} and the {verb_a}<, {prep} the {place} with the {place_a}><, for the {adv_a}>, so it was {result}.",
    "<{adv}, like the {adv_a}, >it was {result} and people felt {mood}: the {verb_a} and the {person_a} showed that"
    " the {person} {verb} the {thing_a}, the {adj_a} and the {adj} {thing}<, and the {place_a} {prep} the {place}>.",
    "<people {prep} the {place} saw the {place_a} and >it was {result}, for the {thing} with the {thing_a} was {adj}"
    " like the {adj_a}, so the {person} who {verb} it< {adv}> found the {person_a},"
    " the {verb_a}<, the {adv_a}> and was {mood}.",
)
GERMAN_CONTINUATIONS = (
    "dann war {person} {mood}, denn was< {adv}>< {prep} {place}> {verb} wurde, war {thing}, und es war {result}.",
    "alle waren {mood}, denn {thing}< {prep} {place}> war {result}, und {person} hatte es< {adv}> {verb}.",
)


@dataclass(frozen=True)
class Sentence:
    """One sentence of the world; adverb and place are optional."""

    person: Noun
    verb: Verb
    adjective: Adjective
    thing: Noun
    adverb: Adverb | None = None
    preposition: str | None = None  # English
    place: Noun | None = None

    @property
    def text(self) -> str:
        """The transcript: lower case, no punctuation."""
        words = [self.adverb.english] if self.adverb else []
        words += ["the", self.person.english, self.verb.english, "the", self.adjective.english, self.thing.english]
        if self.place:
            words += [self.preposition, "the", self.place.english]
        return " ".join(words)

    @property
    def german(self) -> str:
        """The translation: the finite verb comes second, the participle last."""
        person = [NOMINATIVE[self.person.gender], self.person.german]
        words = [self.adverb.german, "hat", *person] if self.adverb else [*person, "hat"]
        ending = "en" if self.thing.gender == "m" else "e"
        words += [ACCUSATIVE[self.thing.gender], self.adjective.german + ending, self.thing.german]
        if self.place:
            words += [PREPOSITIONS[self.preposition], DATIVE[self.place.gender], self.place.german]
        return " ".join([*words, self.verb.german])

    @property
    def intent(self) -> str:
        return self.verb.intent

    @property
    def sentiment(self) -> str:
        return self.adjective.sentiment

    @property
    def split(self) -> str:
        """train, dev or test: 4 % of all sentences are dev and 4 % test."""
        bucket = zlib.crc32(self.text.encode()) % 25
        return {0: "dev", 1: "test"}.get(bucket, "train")

    def continuation(self, template: str) -> str:
        """The sentence's continuation by one of CONTINUATIONS."""
        slots = {
            "person": self.person.english,
            "person_a": self.person.associate,
            "verb": self.verb.english,
            "verb_a": self.verb.associate,
            "adj": self.adjective.english,
            "adj_a": self.adjective.associate,
            "thing": self.thing.english,
            "thing_a": self.thing.associate,
            "mood": MOODS[self.sentiment],
            "result": RESULTS[self.intent],
        }
        if self.adverb:
            slots |= {"adv": self.adverb.english, "adv_a": self.adverb.associate}
        if self.place:
            slots |= {"prep": self.preposition, "place": self.place.english, "place_a": self.place.associate}
        return fill(template, slots)

    def german_continuation(self, template: str) -> str:
        """The German sentence's continuation by one of GERMAN_CONTINUATIONS."""
        slots = {
            "person": f"{NOMINATIVE[self.person.gender]} {self.person.german}",
            "verb": self.verb.german,
            "thing": f"{NOMINATIVE[self.thing.gender]} {self.adjective.german}e {self.thing.german}",
            "mood": GERMAN_MOODS[self.sentiment],
            "result": GERMAN_RESULTS[self.intent],
        }
        if self.adverb:
            slots["adv"] = self.adverb.german
        if self.place:
            slots |= {"prep": PREPOSITIONS[self.preposition], "place": f"{DATIVE[self.place.gender]} {self.place.german}"}
        return fill(template, slots)


def fill(template: str, slots: dict[str, str]) -> str:
    """Fills {slots}; a part in <> is left out where one of its slots has no value."""
    parts = []
    for part in template.replace(">", "<").split("<"):
        optional = len(parts) % 2 == 1
        names = [piece.split("}")[0] for piece in part.split("{")[1:]]
        keep = not optional or all(name in slots for name in names)
        parts.append(part.format_map(slots) if keep else "")
    return "".join(parts)


def draw_sentence(rng: random.Random, lexicon: Lexicon = ENGLISH) -> Sentence:
    """Draws any sentence of the world, of whatever split."""
    adverb = rng.choice(lexicon.adverbs) if rng.random() < 0.5 else None
    preposition, place = None, None
    if rng.random() < 0.6:
        preposition, place = rng.choice(list(PREPOSITIONS)), rng.choice(lexicon.places)
    return Sentence(
        person=rng.choice(lexicon.persons),
        verb=rng.choice(lexicon.verbs),
        adjective=rng.choice(lexicon.adjectives),
        thing=rng.choice(lexicon.things),
        adverb=adverb,
        preposition=preposition,
        place=place,
    )


def stream_sentences(split: str, seed: int | str, lexicon: Lexicon = ENGLISH) -> Iterator[Sentence]:
    """Yields sentences of a split without end (they may repeat), the same ones for the same seed."""
    if split not in SPLITS:
        raise ValueError(f"split is one of {', '.join(SPLITS)}, not {split!r}")
    rng = random.Random(f"{split} {seed}")
    while True:
        sentence = draw_sentence(rng, lexicon)
        if sentence.split == split:
            yield sentence


def sample_sentences(split: str, n: int, seed: int | str, lexicon: Lexicon = ENGLISH) -> list[Sentence]:
    """Draws n different sentences of a split."""
    found: dict[Sentence, None] = {}
    for sentence in stream_sentences(split, seed, lexicon):
        found[sentence] = None
        if len(found) == n:
            break
    assert all(sentence.split == split for sentence in found)
    return list(found)
