"""Flip pairs from keypoint names: which two names are the left and the right of one point.

docs/own_data.md states the rules for users. A name without its side is its key. Two names are a
pair if their keys are equal and their sides opposite, and no third name has this key.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher

from pose.common.errors import PoseError, shorten

Pairs = tuple[tuple[int, int], ...]
Partners = dict[int, int]  # indices of left names to those of right names
Key = tuple[str | int, ...]  # parts of a name; the number of a group stands for a side
Reading = tuple[Key, tuple[int, ...], int]  # key, sides in order (0 left, 1 right), index of name

# (left, right) words; any left word of a group may be the partner of any right one.
GROUPS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("left", "right"), ("lft", "rgt"), ("lft", "rght"), ("lt", "rt")),
    (("l", "r"),),
    (("near", "off"),),  # horses
    (("port", "starboard"),),
    (  # Spanish
        ("izquierda", "derecha"),
        ("izquierdo", "derecho"),
        ("izq", "der"),
        ("izda", "dcha"),
        ("izdo", "dcho"),
    ),
    (("esquerda", "direita"), ("esquerdo", "direito"), ("esq", "dir")),  # Portuguese
    (("gauche", "droite"), ("gauche", "droit")),  # French
    (("sinistra", "destra"), ("sinistro", "destro"), ("sx", "dx")),  # Italian
    (  # German, Dutch
        ("links", "rechts"),
        ("linke", "rechte"),
        ("linker", "rechter"),
        ("linkes", "rechtes"),
        ("li", "re"),
    ),
    (("vänster", "höger"), ("vanster", "hoger")),  # Swedish
    (("venstre", "højre"), ("venstre", "høyre"), ("venstre", "hojre")),  # Danish, Norwegian
    (("lewy", "prawy"), ("lewa", "prawa"), ("lewe", "prawe")),  # Polish
    (("levý", "pravý"), ("levá", "pravá"), ("levé", "pravé")),  # Czech
    (("левый", "правый"), ("левая", "правая"), ("левое", "правое")),  # Russian
    (("左", "右"),),
    (("왼쪽", "오른쪽"), ("왼", "오른")),
)
SIDES = {
    word: (number, side)
    for number, group in enumerate(GROUPS)
    for pair in group
    for side, word in enumerate(pair)
}
LETTERS = SIDES["l"][0]
JOINED = tuple(  # words that are looked for inside longer words: those of 3 letters and more
    (number, left, right)
    for number, group in enumerate(GROUPS)
    for left, right in group
    if min(len(left), len(right)) >= 3
)
UNSPACED = re.compile("왼쪽|오른쪽|왼|오른|左|右")  # these scripts put no space beside a side
# With other meanings: alone, they count as sides only where the same form has a pair elsewhere.
HOMONYMS = frozenset(("near", "off", "port", "der", "dir", "lt", "rt", "li", "re"))
NOT_SIDES = frozenset(
    ("bright", "fright", "wright", "upright", "outright", "cleft", "leftover")  # left, right
) | frozenset(("lip", "rip", "lump", "rump"))  # l, r
MIN_LETTER_PAIRS = 2  # lhip and rhip, lknee and rknee: one such pair may be spelling
NEARLY_THE_SAME = 0.7  # lfoot and rfot: similarity of two names' other letters
MAX_WITHOUT_PAIRS = 4  # more names without any pair are refused


def mirror_pairs(names: Sequence[str]) -> Pairs:
    """(left, right) pairs of names that differ only in their side, ordered by the left name.

    Raises PoseError for a name with a side but no partner, for names that differ in a letter l or r
    that may be spelling, and for more than MAX_WITHOUT_PAIRS names without any pair: mirrored
    images would train the wrong side.

    >>> mirror_pairs(["nose", "right_ear", "left_ear", "LPaw", "RPaw"])
    ((2, 1), (3, 4))
    """
    words = [_words(name) for name in names]
    partners: Partners = {}
    for read in (_all_side_words, _side_words_of_one_group, _side_words_inside):
        rest = _unpaired(len(names), partners)
        partners |= _match(reading for k in rest for reading in read(_folded(words[k]), k))
    sure, unsure, misspelt = _letter_pairs(words, partners)
    partners |= sure
    unsure |= _other_letters(words, partners)
    alone = _without_partner([_folded(parts) for parts in words], partners)
    alone = sorted({*alone, *misspelt} - {*partners, *partners.values()})
    if doubt := _doubt(names, partners, alone, unsure):
        raise PoseError(
            f"params.yaml: keypoints.flip_pairs is null, but {doubt}; set the pairs as "
            "[[left, right], ...], [] for none"
        )
    return tuple(sorted(partners.items()))


def _doubt(names: Sequence[str], partners: Partners, alone: list[int], unsure: Partners) -> str:
    """Why the pairs found may not be all, as part of a sentence; empty if nothing hints at it."""
    if alone:
        verb = "has" if len(alone) == 1 else "have"
        return f"{shorten([names[k] for k in alone])} {verb} no single partner of the other side"
    if unsure:
        listed = shorten([f"{names[left]} and {names[right]}" for left, right in unsure.items()])
        return f"{listed} differ only in a letter l or r, which may be a side or not"
    if len(names) > MAX_WITHOUT_PAIRS and not partners:
        return f"no side was found in the {len(names)} names ({shorten(names)})"
    return ""


def _words(name: str) -> list[str]:
    """Words of a name, case kept: split at separators, digits, changes of case and UNSPACED."""
    text = UNSPACED.sub(r" \g<0> ", unicodedata.normalize("NFKC", name))
    text = "".join(char if char.isalnum() else " " for char in text)
    starts = [k for k in range(1, len(text)) if _starts_word(text[k - 1 : k + 2])]
    spans = zip([0, *starts], [*starts, len(text)], strict=True)
    return " ".join(text[start:end] for start, end in spans).split()


def _starts_word(chars: str) -> bool:
    """Whether a word starts at the second of these two or three characters: eyeL, LHip, left1."""
    before, char, after = chars[0], chars[1], chars[2:]
    if before.isdigit() != char.isdigit():
        return True
    return char.isupper() and (before.islower() or (before.isupper() and after.islower()))


def _folded(words: list[str]) -> list[str]:
    return [word.casefold() for word in words]


def _unpaired(count: int, partners: Partners) -> list[int]:
    paired = {*partners, *partners.values()}
    return [k for k in range(count) if k not in paired]


def _all_side_words(words: list[str], index: int) -> Iterator[Reading]:
    """left_eye_left is the partner of right_eye_right: all sides of a name are exchanged."""
    return _exchange(words, index, {SIDES[word][0] for word in words if word in SIDES})


def _side_words_of_one_group(words: list[str], index: int) -> Iterator[Reading]:
    """L1_left is the partner of L1_right: only one kind of side word is exchanged."""
    for group in sorted({SIDES[word][0] for word in words if word in SIDES}):
        yield from _exchange(words, index, {group})


def _exchange(words: list[str], index: int, groups: set[int]) -> Iterator[Reading]:
    found = [SIDES.get(word, (-1, 0)) for word in words]
    key = [g if g in groups else word for word, (g, _) in zip(words, found, strict=True)]
    if sides := tuple(side for group, side in found if group in groups):
        yield tuple(key), sides, index


def _side_words_inside(words: list[str], index: int) -> Iterator[Reading]:
    """lefteye, eyeright, Nearknee, frontleftpaw: side words joined to other letters."""
    text = "".join(words)
    for group, left, right in JOINED:
        parts = re.split(f"({left}|{right})", text)
        if sides := tuple(int(part == right) for part in parts[1::2]):
            yield (group, *parts[::2]), sides, index


def _match(readings: Iterable[Reading]) -> Partners:
    """Partners by key: one left and one right name, each of them with no other partner."""
    indices = defaultdict(set)
    for key, sides, index in readings:
        indices[key, sides].add(index)
    found = set()
    for (key, sides), lefts in indices.items():
        rights = indices.get((key, tuple(1 - side for side in sides)), set())
        if sides[0] == 0 and len(lefts) == len(rights) == 1:
            found.add((*lefts, *rights))
    uses = Counter(index for pair in found for index in pair)
    return {left: right for left, right in sorted(found) if uses[left] == uses[right] == 1}


def _letter_pairs(
    words: list[list[str]], partners: Partners
) -> tuple[Partners, Partners, list[int]]:
    """Pairs by a joined letter: those that are sides (lhip, EARR), and those that may be spelling.

    They are sides if the names have no other kind of side and several pairs differ at the same end
    of a word. LSHO and RSHO are sides alone too, where capitals mean something in these names. The
    list has names that are nearly a pair like several others: lfoot and rfot.
    """
    has_case = any(char.islower() for parts in words for word in parts for char in word)
    rest = _unpaired(len(words), partners)
    sure: Partners = {}
    unsure: Partners = {}
    misspelt: list[int] = []
    for at_start in (True, False):
        found = _match(reading for k in rest for reading in _letter_inside(words[k], k, at_start))
        several = len(found) >= MIN_LETTER_PAIRS and not partners
        for left, right in found.items():
            is_capital = has_case and at_start and _differing(words[left], words[right]).isupper()
            (sure if several or is_capital else unsure)[left] = right
        if several:
            others = [k for k in rest if k not in {*found, *found.values()}]
            misspelt += _nearly_pairs([words[k] for k in others], others, at_start)
    return sure, unsure, misspelt


def _nearly_pairs(words: list[list[str]], indices: list[int], at_start: bool) -> list[int]:
    """Indices of names of opposite sides whose other letters are nearly the same."""
    readings = [
        ("".join(part for part in key if isinstance(part, str)), sides[0], index)
        for parts, k in zip(words, indices, strict=True)
        for key, sides, index in _letter_inside(parts, k, at_start)
    ]
    return [
        index
        for text, side, index in readings
        if any(
            side != other_side and SequenceMatcher(None, text, other).ratio() > NEARLY_THE_SAME
            for other, other_side, _ in readings
        )
    ]


def _other_letters(words: list[list[str]], partners: Partners) -> Partners:
    """Names without a partner that differ in one letter l and r in a word: flpaw and frpaw."""
    rest = _unpaired(len(words), partners)
    texts = {" ".join(_folded(words[k])): k for k in rest}
    found: Partners = {}
    for text, left in texts.items():
        for at in (match.start() for match in re.finditer("l", text)):
            right = texts.get(f"{text[:at]}r{text[at + 1 :]}")
            if right is not None and NOT_SIDES.isdisjoint(text.split()):
                found[left] = right
    return found


def _letter_inside(words: list[str], index: int, at_start: bool) -> Iterator[Reading]:
    """Readings of a letter l or r at one end of a word of two letters or more."""
    words = _folded(words)
    for k, word in enumerate(words):
        letter, rest = (word[0], word[1:]) if at_start else (word[-1], word[:-1])
        if letter in ("l", "r") and rest and word not in NOT_SIDES:
            yield (*words[:k], LETTERS, rest, *words[k + 1 :]), (int(letter == "r"),), index


def _differing(words: list[str], others: list[str]) -> str:
    return next(word for word, other in zip(words, others, strict=True) if word != other)


def _without_partner(words: list[list[str]], partners: Partners) -> list[int]:
    """Indices of the names with a side and no partner.

    A form that may have another meaning counts only if it makes a pair elsewhere in these names.
    """
    used = {
        form
        for left, right in partners.items()
        for word, form, _ in _side_forms(words[left])
        if word not in words[right]
    }
    return [
        k
        for k in _unpaired(len(words), partners)
        if any(is_sure or form in used for _, form, is_sure in _side_forms(words[k]))
    ]


def _side_forms(words: list[str]) -> Iterator[tuple[str, tuple[int, str], bool]]:
    """Words with a side: the word, its group and how the side stands in it, and if it is sure."""
    is_numbered = len(words) == 2 and words[1].isdigit()  # L4 may be a vertebra
    for word in words:
        if word in SIDES:
            group = SIDES[word][0]
            place = "numbered" if group == LETTERS and is_numbered else "alone"
            yield word, (group, place), place == "alone" and word not in HOMONYMS
        elif word not in NOT_SIDES:
            for group, *pair in JOINED:
                is_sure = pair == ["left", "right"]
                if word.startswith(tuple(pair)):
                    yield word, (group, "start"), is_sure
                if word.endswith(tuple(pair)):
                    yield word, (group, "end"), is_sure
