"""Licences of starting weights, which bind what is trained from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Licence:
    """A licence as provenance, pose.json and the model card state it."""

    name: str
    hub_id: str | None  # of the Hugging Face Hub; None: no other model's licence binds
    terms: str
    hub_name: str | None = None  # with the Hub's "other"
    link: str | None = None


NONE = Licence(
    "none needed",
    None,
    "The weights started from random numbers: no other model's licence binds them.",
)
CC_BY_NC = Licence(
    "CC BY-NC 4.0",
    "cc-by-nc-4.0",
    "The starting weights are CC BY-NC 4.0, and so is what is trained from them.",
)
SAPIENS2 = Licence(
    "Sapiens2 License",
    "other",
    "The starting weights are under the Sapiens2 License, and so is what is trained from them. "
    "Pass these files on only under that licence and with a copy of it.",
    "sapiens2-license",
    "https://github.com/facebookresearch/sapiens2/blob/main/LICENSE.md",
)
APACHE = Licence("Apache-2.0", "apache-2.0", "The starting weights are Apache-2.0.")
UNKNOWN = Licence(
    "that of the file",
    "other",
    "The licence of the starting weights binds these as well; see their source.",
    "as-the-starting-weights",
)
NAMED = {licence.name: licence for licence in (NONE, CC_BY_NC, SAPIENS2, APACHE)}


def licence_of(provenance: Mapping[str, Any], family: str) -> Licence:
    """The licence of the first weights of a model.

    provenance: record of the starting weights that fetch_weights writes; its longest keys
    ("start source") are those of the first weights. family: model.family. A name in the source is
    enough for a licence that restricts; Apache-2.0 needs the publishers' repository.
    """
    source = str(_first(provenance, "source")).lower()
    if source.startswith("random initialisation"):
        return NONE
    if family == "sapiens2" or "sapiens2" in source:
        return SAPIENS2
    if "sapiens" in source or "mae_pretrain" in source:
        return CC_BY_NC
    if "usyd-community/vitpose" in source:
        return APACHE
    return NAMED.get(str(_first(provenance, "licence")), UNKNOWN)


def _first(provenance: Mapping[str, Any], name: str) -> Any:
    """The entry of the first weights: "start start source" before "start source" and "source"."""
    keys = [key for key in provenance if key.split()[-1:] == [name]]
    return provenance[max(keys, key=len)] if keys else None
