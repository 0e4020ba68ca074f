"""Which training persons are learnt from with their keypoints, and which without.

The protocol of semi-supervised pose papers (Xie et al., ICCV 2021, and after): the first N labelled
persons in the annotation file's own order keep their labels. No image serves both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pose.coco.annotations import Annotations, Person
from pose.common.errors import PoseError
from pose.common.params import Data


def training_persons(train: Annotations, data: Data) -> list[Person]:
    """Persons to cache, sorted by image: with keypoints if chosen, else with a box only.

    A chosen person's image gives no unlabelled ones, unless every label is used. Raises PoseError
    if there are fewer labelled persons than asked for.
    """
    labelled = [person for person in train.persons if person.num_keypoints > 0]
    count = labelled_count(data, len(labelled), train.name)
    chosen = {person.ann_id for person in sorted(labelled, key=_file_order(train))[:count]}
    images = {person.image_id for person in labelled if person.ann_id in chosen}
    apart = images if count < len(labelled) else set()
    found = []
    for person in train.persons:
        if person.ann_id in chosen:
            found.append(person)
        elif person.image_id not in apart and _source(person) in data.unlabelled:
            found.append(hidden(person))
    return found


def hidden(person: Person) -> Person:
    """The same person without keypoints: none can leak into what learns without labels."""
    return replace(person, num_keypoints=0, keypoints=np.zeros_like(person.keypoints))


def _source(person: Person) -> str:
    return "rest" if person.num_keypoints else "boxes"


def labelled_count(data: Data, there: int, name: str) -> int:
    """How many of the persons with keypoints that are in `name` keep them; PoseError if too few."""
    if data.labelled_persons is not None and data.labelled_persons > there:
        raise PoseError(
            f"params.yaml: data.labelled_persons = {data.labelled_persons}, but {name} has only "
            f"{there} persons with keypoints; lower it"
        )
    if data.labelled_fraction is not None:
        return max(1, round(data.labelled_fraction * there))
    return there if data.labelled_persons is None else data.labelled_persons


def _file_order(train: Annotations) -> Callable[[Person], tuple[int, int]]:
    images = {image["id"]: place for place, image in enumerate(train.images)}
    places = {one["id"]: place for place, one in enumerate(train.annotations)}
    return lambda person: (images[person.image_id], places[person.ann_id])
