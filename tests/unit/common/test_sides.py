"""Flip pairs by name: the spellings that tools and data sets use, and words that are no sides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pose.common.errors import PoseError
from pose.common.sides import GROUPS, mirror_pairs
from pose.common.skeleton import COCO_17


def refusal(*names: str) -> str:
    with pytest.raises(PoseError) as caught:
        mirror_pairs(names)
    text = str(caught.value)
    assert "\n" not in text
    prefix = "params.yaml: keypoints.flip_pairs is null, but "
    assert text.startswith(prefix)
    assert text.endswith("; set the pairs as [[left, right], ...], [] for none")
    return text.removeprefix(prefix).split("; set the pairs")[0]


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        ((), ()),
        (("nose", "tail", "leftover", "ladder"), ()),
        (("left_eye", "right_eye"), ((0, 1),)),
        (("right_eye", "nose", "left_eye"), ((2, 0),)),
        (("l_eye", "r_eye", "L-Ear", "R-Ear"), ((0, 1), (2, 3))),
        (
            ("front_left_paw", "back_left_paw", "back_right_paw", "front_right_paw"),
            ((0, 3), (1, 2)),
        ),
        ((" left_ear ", "RIGHT_EAR"), ((0, 1),)),
        (("legL1", "legL2", "legR1", "legR2", "head"), ((0, 2), (1, 3))),
        (("L1", "R1", "L2", "R2"), ((0, 1), (2, 3))),
        (  # all sides of a name change in a mirrored image
            ("left_eye_left", "left_eye_right", "right_eye_left", "right_eye_right"),
            ((0, 3), (1, 2)),
        ),
        (  # l and u are lower and upper
            ("left_ear_l", "left_ear_u", "right_ear_l", "right_ear_u"),
            ((0, 2), (1, 3)),
        ),
        (("L1_left", "L1_right", "L5"), ((0, 1),)),  # vertebrae
        (
            ("ojo_izquierdo", "ojo_derecho", "mano_izquierda", "mano_derecha"),
            ((0, 1), (2, 3)),
        ),
        (("oeil_gauche", "main_gauche", "oeil_droit", "main_droite"), ((0, 2), (1, 3))),
        (("lft_eye", "rt_eye"), ((0, 1),)),  # abbreviations of one language mix
        (("lefteye", "righteye", "bright", "cleft", "upright"), ((0, 1),)),
        (("upleft", "upright"), ((0, 1),)),  # with a partner it is a side
    ],
)
def test_pairs(names: tuple[str, ...], pairs: tuple) -> None:
    assert mirror_pairs(names) == pairs


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("leftEar", "rightEar"),
        ("LeftEar", "RightEar"),
        ("leftear", "rightear"),
        ("Leftear", "Rightear"),
        ("LEFTEAR", "RIGHTEAR"),
        ("LEFTear", "RIGHTear"),
        ("earLeft", "earRight"),
        ("earleft", "earright"),
        ("inner ear left", "inner ear right"),
        ("frontleftpaw", "frontrightpaw"),
        ("LEar", "REar"),
        ("lEar", "rEar"),
        ("LSHO", "RSHO"),
        ("LF_paw", "RF_paw"),
        ("LBigToe", "RBigToe"),
        ("earL", "earR"),
        ("ear.L", "ear.R"),
        ("Ear (L)", "Ear (R)"),
        ("ear[left]", "ear[right]"),
        ("ear(left)", "ear(right)"),
        ("left/ear", "right/ear"),
        ("left:ear", "right:ear"),
        ("left|ear", "right|ear"),
        ("left1", "right1"),
        ("1left", "1right"),
        ("ear-left-2", "ear-right-2"),
        ("legL1", "legR1"),
        ("L1", "R1"),
        ("l_1", "r_1"),
        ("left", "right"),
        ("L", "R"),
        ("lft_ear", "rgt_ear"),
        ("Lt Ear", "Rt Ear"),
        ("NearFore", "OffFore"),
        ("near_fore", "off_fore"),
        ("Nearknee", "Offknee"),
        ("oreja_izq", "oreja_der"),
        ("orejaIzq", "orejaDer"),
        ("orejaizq", "orejader"),
        ("oreja izquierda", "oreja derecha"),
        ("orelha_esquerda", "orelha_direita"),
        ("oreille_gauche", "oreille_droite"),
        ("orecchio_sx", "orecchio_dx"),
        ("orecchio sinistro", "orecchio destro"),
        ("links_ohr", "rechts_ohr"),
        ("OhrLinks", "OhrRechts"),
        ("linkes Ohr", "rechtes Ohr"),
        ("linkeroor", "rechteroor"),
        ("vänster_öra", "höger_öra"),
        ("lewe_ucho", "prawe_ucho"),
        ("левое 1", "правое 1"),
        ("左肩", "右肩"),
        ("耳_左", "耳_右"),
        ("肩左1", "肩右1"),
        ("왼쪽 귀", "오른쪽 귀"),
        ("ear\uff08left\uff09", "ear\uff08right\uff09"),  # full-width brackets
    ],
)
def test_one_pair_among_others(left: str, right: str) -> None:
    assert mirror_pairs(["nose", right, "tail_base", "tail_tip", left]) == ((4, 1),)


@pytest.mark.parametrize(("left", "right"), [pair for group in GROUPS for pair in group])
def test_each_side_word(left: str, right: str) -> None:
    for name in ("ear_{}", "{}-ear", "{} ear 1", "ear({})"):
        for case in (str, str.title, str.upper):
            assert mirror_pairs([case(name.format(side)) for side in (right, left)]) == ((1, 0),)
    joined = [f"ear{side}2" for side in (left, right)]
    if min(len(left), len(right)) >= 3 or left == "左":
        assert mirror_pairs(joined) == ((0, 1),)


@pytest.mark.parametrize(
    "stems",
    [("shoulder", "hip"), ("Hip", "Knee", "Ankle"), ("SHO", "ELB", "WRI"), ("f_paw", "h_paw")],
)
def test_joined_letters_are_sides_if_several_names_differ_so(stems: tuple[str, ...]) -> None:
    """As lshoulder, Lhip, LSHO; and at the end of a word, as pawl."""
    upper = stems[0].isupper()
    others = ["NOSE", "ROOT"] if upper else ["nose", "root", "larynx", "rump"]
    letters = ("L", "R") if stems[0][0].isupper() else ("l", "r")
    for name in ("{side}{stem}", "x{stem}{side}"):
        if "{stem}{side}" in name:
            letters = tuple(letter if upper else letter.lower() for letter in letters)
        names = [name.format(side=side, stem=stem) for side in letters for stem in stems]
        expected = tuple((k, k + len(stems)) for k in range(len(stems)))
        assert mirror_pairs(names + others) == expected
    one = [name.format(side=side, stem=stems[0].lower()) for side in ("l", "r")]
    expected_end = "differ only in a letter l or r, which may be a side or not"
    assert refusal(*one) == f"{one[0]} and {one[1]} {expected_end}"


@pytest.mark.parametrize(
    "names",
    [
        ("lip_upper", "rip", "larynx", "rump"),
        ("lump", "rump", "lip", "rip"),
        ("cleft", "bright", "upright", "leftover"),
        ("near_tail", "kick_off", "der", "port"),
        ("L1", "L2", "L3", "L4"),
        ("shoulder", "bladder", "border", "coffin"),
        ("loin", "limb", "rib", "root"),
        ("collar", "tail", "heel", "rear"),
        ("gauge", "d_tip", "g_tip", "dent"),
    ],
)
def test_words_that_are_no_sides(names: tuple[str, ...]) -> None:
    assert mirror_pairs(names) == ()
    with_ears = (*names, "left_ear", "right_ear")
    assert mirror_pairs(with_ears) == ((4, 5),)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("left_eye", "nose"), "left_eye has no single partner of the other side"),
        (("left_eye", "right_ear"), "left_eye, right_ear have no single partner of the other side"),
        (("LeftEye", "RightEye", "LeftEar"), "LeftEar has no single partner of the other side"),
        (("lefteye", "righteye", "leftear"), "leftear has no single partner of the other side"),
        (("leftear", "nose"), "leftear has no single partner of the other side"),
        (("eyeL", "eyeR", "earL"), "earL has no single partner of the other side"),
        (("L1", "R1", "L2"), "L2 has no single partner of the other side"),
        (("near_fore", "off_fore", "near_hind"), "near_hind has no single partner of the other"),
        (("Nearfore", "Offfore", "Nearhind"), "Nearhind has no single partner of the other side"),
        (("左肩", "鼻"), "左肩 has no single partner of the other side"),
        (
            ("left_eye", "Left-Eye", "right_eye"),
            "left_eye, Left-Eye, right_eye have no single partner of the other side",
        ),
        (("lear", "rear"), "lear and rear differ only in a letter l or r, which may be a side"),
        (("left_eye", "right_eye", "lhip", "rhip"), "lhip and rhip differ only in a letter l or r"),
        (("NOSE", "LSHO", "RSHO"), "LSHO and RSHO differ only in a letter l or r, which may be"),
        (("l_ear", "r_ear", "flpaw", "frpaw"), "flpaw and frpaw differ only in a letter l or r"),
        (
            ("lhip", "rhip", "lknee", "rknee", "lfoot", "rfot"),
            "lfoot, rfot have no single partner of the other side",
        ),
        (tuple("abcde"), "no side was found in the 5 names (a, b, c, d, e)"),
        (
            tuple(f"kpt-{k}" for k in range(294)),
            "no side was found in the 294 names (kpt-0, kpt-1, ",
        ),
    ],
)
def test_doubtful_names_are_refused(names: tuple[str, ...], expected: str) -> None:
    assert refusal(*names).startswith(expected)


STYLES: dict[str, Callable[[str, str], str]] = {
    "left_eye": lambda side, stem: f"{side}_{stem}",
    "left-eye": lambda side, stem: f"{side}-{stem}",
    "leftEye": lambda side, stem: f"{side}{stem.title()}",
    "LeftEye": lambda side, stem: f"{side.title()}{stem.title()}",
    "lefteye": lambda side, stem: f"{side}{stem}",
    "LEFTEYE": lambda side, stem: f"{side}{stem}".upper(),
    "eyeLeft": lambda side, stem: f"{stem}{side.title()}",
    "eyeleft": lambda side, stem: f"{stem}{side}",
    "eye (left)": lambda side, stem: f"{stem} ({side})",
    "l_eye": lambda side, stem: f"{side[0]}_{stem}",
    "LEye": lambda side, stem: f"{side[0].upper()}{stem.title()}",
    "Leye": lambda side, stem: f"{side[0].upper()}{stem}",
    "leye": lambda side, stem: f"{side[0]}{stem}",
    "LEYE": lambda side, stem: f"{side[0]}{stem}".upper(),
    "eyeL": lambda side, stem: f"{stem}{side[0].upper()}",
    "eyel": lambda side, stem: f"{stem}{side[0]}",
    "eye.L.1": lambda side, stem: f"{stem}.{side[0].upper()}.1",
    "lft eye": lambda side, stem: f"{ {'left': 'lft', 'right': 'rgt'}[side] } {stem}",
    "near_eye": lambda side, stem: f"{ {'left': 'near', 'right': 'off'}[side] }_{stem}",
    "eye_izq": lambda side, stem: f"{stem}_{ {'left': 'izq', 'right': 'der'}[side] }",
    "左eye": lambda side, stem: f"{ {'left': '左', 'right': '右'}[side] }{stem}",
}
STEMS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")


@given(st.sampled_from(sorted(STYLES)), st.permutations(range(17)))
def test_cocos_pairs_in_any_style_and_order(style: str, order: list[int]) -> None:
    names = ["nose"] + [STYLES[style](side, stem) for stem in STEMS for side in ("left", "right")]
    if style.isupper():
        names[0] = "NOSE"
    found = mirror_pairs([names[k] for k in order])
    assert {(order[left], order[right]) for left, right in found} == {*COCO_17.flip_pairs}
    assert [left for left, _ in found] == sorted(left for left, _ in found)


# fmt: off
PARTS = (
    "nose", "tail", "snout", "beak", "withers", "hoof_tip", "throat", "larynx", "rump", "lip",
    "rib", "root", "loin", "lower_lip", "rear", "limb", "shoulder", "collar", "bright_spot",
    "upper", "border", "head", "neck", "spine", "belly", "ring", "lobe", "elbow", "girth", "coffin",
    "offset", "nearest", "alert", "dent", "link", "rectum", "gullet", "flipper", "antenna",
    "thorax", "abdomen", "rostrum",
)
# fmt: on


@given(st.lists(st.sampled_from(PARTS), unique=True), st.sampled_from([str, str.title, str.upper]))
def test_parts_of_bodies_without_sides_make_no_pair(
    names: list[str], case: Callable[[str], str]
) -> None:
    names = [case(name) for name in names]
    if len(names) <= 4:
        assert mirror_pairs(names) == ()
    else:
        assert refusal(*names).startswith(f"no side was found in the {len(names)} names (")
    assert mirror_pairs([*names, "L_ear", "R_ear"]) == ((len(names), len(names) + 1),)


@given(st.lists(st.text("lrLRefthig1_ 左右", max_size=8), unique=True, max_size=12))
def test_any_names_give_pairs_one_to_one_or_are_refused(names: list[str]) -> None:
    try:
        pairs = mirror_pairs(names)
    except PoseError:
        return
    used = [index for pair in pairs for index in pair]
    assert len(used) == len({*used})
