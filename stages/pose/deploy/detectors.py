"""The names of the person detectors, for --help, which does not import torch."""

# torchvision's model names, with the box AP on COCO val2017 and file size that it reports
DETECTORS = {
    "fasterrcnn_mobilenet_v3_large_fpn": "AP 32.8, 74 MB",
    "fasterrcnn_resnet50_fpn_v2": "AP 46.7, 167 MB, 60 times the arithmetic",
    "ssdlite320_mobilenet_v3_large": "AP 21.3, 13 MB, the fastest",
}
