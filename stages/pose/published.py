"""COCO 2017's files as published: where they lie below data.base_url, and what they have to be.

Sizes and md5 agree over many independent mirrors; one public list has train and val swapped, which
the sizes tell. The unlabelled images' md5 was found in one place only, and of their list nothing.
"""

from __future__ import annotations

from pose.pins import Pin, ZipPin

KEY = "stages/pose/published.py"
COCO = {
    "zips/train2017.zip": Pin("cced6f7f71b7629ddf16f17bbcfab6b2", KEY, "md5", 19_336_861_798),
    "zips/val2017.zip": Pin("442b8da7639aecaf257c1dceb8ba8c80", KEY, "md5", 815_585_330),
    "annotations/annotations_trainval2017.zip": Pin(
        "f4bbac642086de4f52a3fdda2de5fa2c", KEY, "md5", 252_907_541
    ),
}
UNLABELLED = {
    "zips/unlabeled2017.zip": ZipPin(
        "unlabeled2017", 19_000_000_000, "7ebc562819fdb32847aab79530457326"
    ),
    "annotations/image_info_unlabeled2017.zip": ZipPin("annotations", 0, None),  # megabytes
}
