"""What can be written in several ways, or not be seen at all: invisible marks, blanks, apostrophes, scripts without blanks.

Properties of characters are those of the Unicode standard, of languages those of BCP 47 and CLDR (package langcodes).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import langcodes
import regex

from blsp.base.files import InputError

LINE_BREAKS = "\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"
# The last three are blank though Unicode calls them two letters and a symbol: Hangul fillers and Braille's empty cell.
SPACES = "\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000\u3164\uffa0\u2800"
DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
# The zero-width non-joiner and joiner spell words: of Persian, of Sinhala, Malayalam and other Indic scripts, the joiner of
# emoji too; so does the Mongolian vowel separator.
JOINERS = "\u200c\u200d\u180e"
# Seen, or part of a letter: Hangul's fillers of old syllables, variants of Mongolian letters, of Han and emoji, tags (flags).
SEEN = "\u115f\u1160\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0020-\U000e007f\U000e0100-\U000e01ef"
# All else that shows nothing steers breaks of lines and hyphens (U+00AD, U+200B, U+2060, U+FEFF: words are the same without),
# sorting (U+034F), formulas, ruby. Khmer and Thai have U+200B between words; as their words have no blanks, it is no blank.
ZERO_WIDTH = rf"[[\p{{Default_Ignorable_Code_Point}}\ufff9-\ufffb]--[{DIRECTIONS}{JOINERS}{SEEN}]]"
# A joiner that joins nothing: where a word begins, behind another joiner, among letters that never join. At a word's end it
# counts behind a virama (Malayalam's old chillu letters) and, if it joins, behind any letter that can (Arabic).
NEVER_JOIN = "".join(rf"\p{{Script={script}}}" for script in ("Latn", "Grek", "Cyrl", "Armn", "Geor", "Hebr", "Hani", "Hira",
                                                                "Kana", "Hang", "Thai", "Laoo"))  # fmt: skip
SHOWN = r"\p{L}\p{M}\p{N}\p{S}"
IDLE = (
    rf"(?<![{SHOWN}])[{JOINERS}]+|(?<=[{NEVER_JOIN}])[{JOINERS}]+"
    rf"|(?<!\p{{Canonical_Combining_Class=Virama}})[\u200c\u180e][{JOINERS}]*(?![{SHOWN}{JOINERS}])"
)
CONTROLS = "\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f"
MARKS = {
    "line separators": (regex.compile(f"[{LINE_BREAKS}]+"), " "),
    "no-break and wide spaces": (regex.compile(f"[{SPACES}]+"), " "),
    "tabs": (regex.compile("\t+"), " "),
    "bidirectional marks": (regex.compile(f"[{DIRECTIONS}]+"), ""),
    "zero-width marks": (regex.compile(f"(?V1){ZERO_WIDTH}+"), ""),
    "control characters": (regex.compile(f"[{CONTROLS}]+"), ""),
    "joiners that join nothing": (regex.compile(IDLE), ""),
}
ODD = regex.compile(rf"(?V1)[\x00-\x1f\x7f-\x9f{SPACES}{DIRECTIONS}{JOINERS}{LINE_BREAKS}]|{ZERO_WIDTH}|  |^ | $")
VARIANTS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # choose between two glyphs of one character

# Scripts that put no blanks between words, by ISO 15924: those of which UAX 14 breaks a line between any two syllables (its
# classes ID and AK), by dictionary (SA), or at a mark that is no blank (Tibetan).
UNSPACED_SCRIPTS = ("Hani", "Hira", "Kana", "Bopo", "Yiii", "Thai", "Laoo", "Khmr", "Mymr", "Tale", "Talu", "Lana", "Tavt",
                    "Tibt", "Java", "Bali")  # fmt: skip
COMMON_TO_THEM = "\u3006\u3031-\u3035\u303c\u30fc\ua9cf\uff70"  # letters of no one script, such as kana's long vowel
UNSPACED = "".join(rf"\p{{Script={script}}}" for script in UNSPACED_SCRIPTS) + COMMON_TO_THEM
# A grapheme cluster, and the vowel and tone signs behind it that are clusters of their own for Unicode (Burmese ာ and း).
SYLLABLE = regex.compile(rf"(?=[{UNSPACED}])\X(?:(?=\p{{M}})\X)*")
UNSPACED_LETTER = regex.compile(rf"(?V1)[[{UNSPACED}]&&\p{{L}}]")

# What is typed, or set by a word processor, for an apostrophe: quotation marks, accents, primes, modifier letters.
APOSTROPHES = "'`´‘’‛′‵ʹʻʼʽʾʿˈˊˋꞋꞌ＇｀՚׳ʹ΄᾽᾿❛❜"
QUOTE = rf"[{APOSTROPHES}]"
LETTER = rf"[[\p{{L}}\p{{M}}\p{{N}}]--[{UNSPACED}]]"  # of a word that can have an apostrophe
CLITIC = "s|t|d|m|re|ve|ll"  # of English, which tokenized texts set apart: it 's
IN_WORD = rf"(?<={LETTER}){QUOTE}(?={LETTER})"
BEFORE_CLITIC = rf"(?<={LETTER})\s+{QUOTE}(?=(?:{CLITIC})(?!{LETTER}|{QUOTE}))"
APOSTROPHE = regex.compile(f"(?V1)(?P<apostrophe>{IN_WORD}|{BEFORE_CLITIC})|{QUOTE}", regex.IGNORECASE)

SCRIPTS = {"Hans": "Hani", "Hant": "Hani", "Hanb": "Hani", "Hrkt": "Jpan", "Hira": "Jpan", "Kana": "Jpan", "Hang": "Kore"}
# What corpora say for a language and BCP 47 does not: countries. (ch would be Chamorro, which is cha, too.)
COUNTRIES = {"ch": "zh", "cn": "zh", "jp": "ja"}


def clean(text: str, found: Counter[str] | None = None) -> str:
    """A text on one line without what cannot be seen: odd blanks and separators become one space, marks that show nothing go.

    Words and case stay, and so do the joiners that spell words (U+200C, U+200D). Nothing is normalized (NFC or otherwise).
    `found` counts what was mended, by its name in `MARKS`.
    """
    if not ODD.search(text):
        return text
    for name, (pattern, replacement) in MARKS.items():
        text, times = pattern.subn(replacement, text)
        if times and found is not None:
            found[f"texts with {name}"] += 1
    return " ".join(part for part in text.split(" ") if part)


def apostrophes(text: str) -> str:
    """Every apostrophe as "'", whatever it was typed as, and single quotation marks as blanks.

    An apostrophe stands within a word ("can’t"), or before a clitic that is set apart ("it ’s", which becomes "it's").
    """
    return APOSTROPHE.sub(lambda found: "'" if found["apostrophe"] else " ", text)


def split_unspaced(text: str) -> str:
    """`text` with blanks around each character of a script without blanks, its vowel and tone signs with it."""
    return " ".join(SYLLABLE.sub(r" \g<0> ", text).split())


def script_of(language: str) -> str:
    """ISO 15924 code of the script that a language is written in; "Hani" for Chinese, whether traditional or simplified.

    `language` is a code of ISO 639 or BCP 47 in any of the usual spellings: "de", "sv-SE", "zho_Hans", "cmn", "jv-Java"; or
    MSLT's "ch" and "jp". Raises InputError where it is none.
    """
    first, *rest = re.split("[-_]", language.lower())
    tag = "-".join([COUNTRIES.get(first, first), *rest])
    try:
        valid = langcodes.tag_is_valid(tag)
    except langcodes.LanguageTagError:
        valid = False
    if not valid:
        raise InputError(f"'{language}' is not a language code of ISO 639 or BCP 47, such as de, zh, zho_Hans or pt-BR")
    script = langcodes.Language.get(tag).maximize().script or "Zyyy"
    return SCRIPTS.get(script, script)


def is_unspaced(texts: Iterable[str]) -> bool:
    """Whether most letters of the texts are of a script without blanks, whatever the language is called."""
    letters = unspaced = 0
    for text in texts:
        letters += sum(map(str.isalpha, text))
        unspaced += len(UNSPACED_LETTER.findall(text))
    return 2 * unspaced > letters
