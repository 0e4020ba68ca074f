"""Which people of the training split keep their keypoints, and which are used without them.

The protocol of semi-supervised pose papers (Xie et al., ICCV 2021, and after): the first N labelled
people in the order of the annotation file keep their labels. No image is on both sides.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pose.coco.annotations import Annotations, Person
from pose.common.errors import PoseError
from pose.common.params import Data


def training_persons(train: Annotations, data: Data) -> list[Person]:
    """People to cache, in the order of train.persons: chosen ones with keypoints, others without.

    An image with a chosen person gives no unlabelled people, unless every label is used. Raises
    PoseError if there are fewer labelled people than data.labelled_persons.
    """
    labelled = [person for person in train.persons if person.num_keypoints > 0]
    count = labelled_count(data, len(labelled), train.name)
    chosen = {person.ann_id for person in _file_order(train, labelled)[:count]}
    labelled_images = {person.image_id for person in labelled if person.ann_id in chosen}
    excluded = labelled_images if count < len(labelled) else set()
    persons = []
    for person in train.persons:
        source = "rest" if person.num_keypoints else "boxes"
        if person.ann_id in chosen:
            persons.append(person)
        elif person.image_id not in excluded and source in data.unlabelled:
            persons.append(without_keypoints(person))
    return persons


def without_keypoints(person: Person) -> Person:
    """A copy of the person with all keypoints zero, so that no label leaks into stage 2."""
    return replace(person, num_keypoints=0, keypoints=np.zeros_like(person.keypoints))


def labelled_count(data: Data, available: int, name: str) -> int:
    """How many of `available` people with keypoints keep them; `name` is the annotation file.

    Raises PoseError if data.labelled_persons is larger than `available`.
    """
    if data.labelled_persons is not None and data.labelled_persons > available:
        raise PoseError(
            f"params.yaml: data.labelled_persons = {data.labelled_persons}, but {name} has only "
            f"{available} people with keypoints; lower it"
        )
    if data.labelled_fraction is not None:
        return max(1, round(data.labelled_fraction * available))
    return available if data.labelled_persons is None else data.labelled_persons


def _file_order(train: Annotations, persons: list[Person]) -> list[Person]:
    """Sorted by the position of the image, then of the annotation, in the annotation file."""
    images = {image["id"]: index for index, image in enumerate(train.images)}
    annotations = {entry["id"]: index for index, entry in enumerate(train.annotations)}
    return sorted(persons, key=lambda p: (images[p.image_id], annotations[p.ann_id]))
