"""The licence of a model is that of the first weights."""

from __future__ import annotations

import pytest

from pose.common.licence import APACHE, CC_BY_NC, NONE, SAPIENS2, UNKNOWN, Licence, licence_of


@pytest.mark.parametrize(
    ("source", "family", "expected"),
    [
        ("random initialisation, seed 0", "vit", NONE),
        ("random initialisation, seed 0", "sapiens2", NONE),
        ("facebook/sapiens/sapiens_host/pretrain/x.pth", "vit", CC_BY_NC),
        ("noahcao/sapiens-pose-coco/x.pth", "vit", CC_BY_NC),
        ("Sapiens_1b_coco.pth", "vit", CC_BY_NC),
        ("mae_pretrain_vit_base.pth", "vit", CC_BY_NC),
        (
            "facebook/sapiens2-pretrain-0.4b/sapiens2_0.4b_pretrain.safetensors",
            "sapiens2",
            SAPIENS2,
        ),
        ("sapiens2_0.4b_pose.safetensors", "sapiens2", SAPIENS2),
        ("mine.pth", "sapiens2", SAPIENS2),
        ("https://example.org/sapiens2_0.4b_pose.safetensors", "vit", SAPIENS2),
        ("usyd-community/vitpose-plus-base/model.safetensors", "vit", APACHE),
        ("https://huggingface.co/usyd-community/vitpose-base/resolve/main/a.bin", "vit", APACHE),
        ("vitpose-b.pth", "vit", UNKNOWN),
        (None, "vit", UNKNOWN),
    ],
)
def test_licence_of_the_starting_weights(
    source: str | None, family: str, expected: Licence
) -> None:
    assert licence_of({"source": source} if source else {}, family) == expected
    recorded = {"source": source, "licence": "that of the file"} if source else {}
    assert licence_of(recorded, family) == expected


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ({"source": "random initialisation, seed 3", "licence": "none needed"}, NONE),
        ({"source": "facebook/sapiens/x.pth", "licence": "that of the file"}, CC_BY_NC),
        ({"source": "a.pth", "licence": "Sapiens2 License"}, SAPIENS2),
        ({"source": "a.pth", "licence": "that of the file"}, UNKNOWN),
    ],
)
def test_a_run_that_goes_on_from_others_keeps_the_licence_of_the_first(
    first: dict[str, str], expected: Licence
) -> None:
    """Its file is named by an experiment, which says nothing."""
    provenance = first
    for run in ("sapiens-try", "slow"):
        before = {f"start {key}": value for key, value in provenance.items()}
        provenance = {"source": f"models/ssl.safetensors of {run}", "revision": "c0ffee"} | before
        assert licence_of(provenance, "vit") == expected


def test_sapiens2s_licence_is_named_linked_and_travels_with_the_weights() -> None:
    assert SAPIENS2.name in SAPIENS2.terms
    assert "with a copy of it" in SAPIENS2.terms
    assert SAPIENS2.link is not None
    assert SAPIENS2.link.endswith("facebookresearch/sapiens2/blob/main/LICENSE.md")
