"""Agreement with numbers of the official implementations; data/PROVENANCE.md says whence."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sapiens_reference
import torch

from one_person import decode_person, encode_person
from pose.codecs import gaussian, geometry
from pose.codecs.udp import UdpCodec
from pose.common.skeleton import COCO_17, COCO_OKS_SIGMAS
from pose.engine import losses
from pose.engine.optim import Schedule, parameter_groups
from pose.evaluation import coco_metrics
from pose.models.pose_model import PoseModel, build_on_meta
from pose.models.spec import ModelSpec
from pose.pretrained import convert, names
from pose.pretrained.select import read_model

oks = partial(coco_metrics.oks, sigmas=COCO_OKS_SIGMAS)
oks_nms = partial(coco_metrics.oks_nms, sigmas=COCO_OKS_SIGMAS)

DATA = Path(__file__).with_name("data")
UDP = np.load(DATA / "udp_gaussian.npz")
TAGS = sorted({name.split("/")[0] for name in UDP.files})


def udp_case(tag: str):
    """Sizes, sigma, blur and our targets of a case."""
    *sizes, sigma, blur = UDP[f"{tag}/sizes"].tolist()
    input_wh, heatmap_wh = tuple(sizes[:2]), tuple(sizes[2:])
    codec = UdpCodec("gaussian", input_wh, heatmap_wh, sigma, 0.0546875, COCO_17.flip_indices)
    targets = codec.encode(UDP[f"{tag}/kpts"].astype(float), UDP[f"{tag}/vis"].astype(float))
    return input_wh, heatmap_wh, sigma, blur, targets


@pytest.mark.parametrize("tag", TAGS)
def test_udp_encode_and_decode(tag: str) -> None:
    """At image coordinates, for a box of 3 x 4 hundred pixels: official factor W / (W - 1) gone."""
    input_wh, heatmap_wh, sigma, blur, targets = udp_case(tag)
    np.testing.assert_array_equal(targets[:, 2], UDP[f"{tag}/weights"])
    maps = gaussian.render_heatmaps(torch.from_numpy(targets)[None], heatmap_wh, sigma)
    if f"{tag}/heatmaps" in UDP:
        np.testing.assert_allclose(maps[0].numpy(), UDP[f"{tag}/heatmaps"], atol=2e-7)
    found, scores = gaussian.dark_decode(maps, gaussian.Blur(blur))
    np.testing.assert_allclose(scores[0].numpy(), UDP[f"{tag}/dec_scores"], atol=2e-6)
    center, scale = np.array([400.0, 500.0]), np.array([300.0, 400.0])
    image = geometry.heatmap_to_image(found[0].numpy().astype(float), center, scale, heatmap_wh)
    official = UDP[f"{tag}/dec_kpts"] / np.array(input_wh) * scale + center - scale / 2
    finds = UDP[f"{tag}/dec_scores"] > 0  # else the official code divides 0 by 0
    assert finds.any()
    np.testing.assert_allclose(image[finds], official[finds], atol=1e-3)


SIGNED = np.load(DATA / "dark_signed.npz")


def test_dark_of_maps_below_zero_in_sapiens() -> None:
    """Of an untrained model: the first four have a negative blurred maximum, so a negative gain."""
    found, scores = gaussian.dark_decode(
        torch.from_numpy(SIGNED["sapiens/maps"])[None], gaussian.Blur(11)
    )
    np.testing.assert_array_equal(scores[0], SIGNED["sapiens/scores"])
    official = SIGNED["sapiens/kpts_input"] / (96, 128) * (23, 31)
    np.testing.assert_allclose(found[0].numpy(), official, atol=2e-4)


def test_dark_and_the_way_to_the_image_in_vitpose() -> None:
    maps = torch.from_numpy(SIGNED["vitpose/maps"])[None]
    found, scores = gaussian.dark_decode(maps, gaussian.Blur(11, "mirror"))
    np.testing.assert_array_equal(scores[0], SIGNED["vitpose/scores"])
    center, scale = (SIGNED[f"vitpose/{name}"].astype(float) for name in ("center", "scale"))
    image = geometry.heatmap_to_image(found[0].double().numpy(), center, scale, (24, 32))
    np.testing.assert_allclose(image, SIGNED["vitpose/kpts_image"], atol=1e-3)
    other = gaussian.dark_decode(maps, gaussian.Blur(11))[0]
    assert (other - found).abs().max() > 0.1


COMBINED = np.load(DATA / "udp_combined.npz")


@pytest.mark.parametrize("tag", sorted({name.split("/")[0] for name in COMBINED.files}))
def test_combined_encode_and_decode(tag: str) -> None:
    codec = UdpCodec("combined", (192, 256), (48, 64), 2.0, 0.0546875, COCO_17.flip_indices)
    keypoints, visibility = (COMBINED[f"{tag}/{name}"].astype(float) for name in ("kpts", "vis"))
    maps, weights = encode_person(codec, keypoints, visibility)
    np.testing.assert_array_equal(weights, COMBINED[f"{tag}/weights"])
    if f"{tag}/maps_5_6" in COMBINED:
        np.testing.assert_allclose(maps[15:21], COMBINED[f"{tag}/maps_5_6"], atol=5e-6)
    found, scores = decode_person(codec, maps, gaussian.Blur(11))
    official = COMBINED[f"{tag}/dec_kpts"] * (191 / 192, 255 / 256)
    finds = COMBINED[f"{tag}/dec_scores"] > 0
    np.testing.assert_allclose(scores, COMBINED[f"{tag}/dec_scores"], atol=2e-6)
    np.testing.assert_allclose(found[finds], official[finds], atol=1e-3)


def test_udp_warp_matrices() -> None:
    case = np.load(DATA / "udp_warp.npz")
    for i, (x1, y1, x2, y2) in enumerate(case["boxes_xyxy"].astype(float)):
        input_wh = tuple(case["output_size_wh"][i].tolist())
        bbox = np.array([x1, y1, x2 - x1, y2 - y1])
        center, scale = geometry.bbox_to_center_scale(bbox, float(case["padding"]), input_wh)
        np.testing.assert_allclose(scale, case["scale_fixed"][i], rtol=1e-6)
        affine = geometry.udp_affine(center, scale, float(case["rot_deg"][i]), input_wh)
        np.testing.assert_allclose(affine, case["mats"][i], atol=2e-5, rtol=2e-5)
        points = geometry.apply_affine(affine, case["kpts_in"][i].astype(float))
        np.testing.assert_allclose(points, case["kpts_out"][i], atol=1e-3)


def test_keypoint_mse_gradient() -> None:
    case = np.load(DATA / "keypoint_mse.npz")
    output, target, weights = (torch.from_numpy(case[n]) for n in ("output", "target", "weights"))
    assert 0 < weights.sum() < weights.numel()
    output.requires_grad_()
    (losses.keypoint_mse(output, target, weights) * output.numel() / int(case["cells"])).backward()
    np.testing.assert_allclose(output.grad.numpy(), case["grad"], atol=1e-9, rtol=1e-5)
    assert np.abs(case["grad"]).max() > 1e-4


def test_combined_mse() -> None:
    """The file's weights were given to the official code as (B, K, 1), which it multiplies across
    samples: weights of (B, K), as it documents them, whose squares are the batch's mean.
    """
    case = np.load(DATA / "combined_mse.npz")
    output, target, weights = (torch.from_numpy(case[n]) for n in ("output", "target", "weights"))
    across = (weights**2).mean(0, keepdim=True).sqrt().expand_as(weights)
    found = losses.combined_mse(output, target, across)
    assert float(found) == pytest.approx(float(case["loss"]), abs=1e-6)


OKS = np.load(DATA / "oks_nms.npz")


@pytest.mark.parametrize("image", sorted({n.split("/")[0] for n in OKS.files} - {"sigmas"}))
@pytest.mark.parametrize("threshold", ["0.9", "0.7"])
def test_oks_nms(image: str, threshold: str) -> None:
    poses, scores, areas = (OKS[f"{image}/{name}"] for name in ("kpts", "score", "area"))
    found = oks(poses[0, :, :2], poses[..., :2], areas[0], areas)
    np.testing.assert_allclose(found, OKS[f"{image}/oks_row0"], atol=1e-6)
    kept = oks_nms(poses[..., :2], scores, areas, float(threshold))
    assert kept.tolist() == OKS[f"{image}/keep_{threshold}"].tolist()
    assert 0 < len(kept) < len(poses)


def our_name(name: str) -> str:
    """Ours for an official parameter name, by the pairs of names.RENAMES."""
    for pattern, replacement in names.RENAMES:
        name = pattern.sub(replacement, name)
    return name


def test_layer_decay_groups_of_sapiens_03b() -> None:
    case = json.loads((DATA / "layer_decay.json").read_text())
    size = ModelSpec(
        (768, 1024), 16, 2, 1024, 24, 16, 0.0, "sapiens", (768, 768), (768, 768), False, 1, 17
    )
    model = build_on_meta(size)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, 0.1, case["layer_decay_rate"])
    assert len(groups) == case["group_count"]
    found = {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }
    for group in case["groups"].values():
        for name in group["param_names"]:
            lr_scale, weight_decay = found[our_name(name)]
            assert lr_scale == pytest.approx(group["lr_scale"], rel=1e-12)
            assert weight_decay == group["weight_decay"]


class NamedParameters(torch.nn.Module):
    """Stands for a model with parameters of these names and numbers of axes."""

    def __init__(self, axes: dict[str, int], depth: int) -> None:
        super().__init__()
        self.named = {name: torch.nn.Parameter(torch.zeros([1] * n)) for name, n in axes.items()}
        self.backbone = torch.nn.Module()
        self.backbone.blocks = [None] * depth

    def named_parameters(self):
        return iter(self.named.items())


def our_sapiens2_name(name: str) -> str:
    pairs = [
        ("patch_embed.projection.", "patch_embed.proj."),
        (".ln1.", ".norm1." if ".blocks." in name else ".norm."),
        (".ln2.", ".norm2."),
        ("decode_head.conv_pose.", "head.final_layer."),
        ("decode_head.", "head."),
    ]
    for official, ours in pairs:
        name = name.replace(official, ours)
    return name


def test_layer_decay_groups_of_sapiens2_04b() -> None:
    case = json.loads((DATA / "sapiens2_layer_decay.json").read_text())
    expected = {our_sapiens2_name(name): values for name, values in case["params"].items()}
    model = NamedParameters({name: axes for name, (*_, axes) in expected.items()}, case["depth"])
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, case["weight_decay"], case["layer_decay_rate"])
    assert len(groups) == 2 * 5  # embeddings, three blocks, the rest
    found = {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }
    assert found.keys() == expected.keys()
    for name, (lr_scale, weight_decay, _) in expected.items():
        assert found[name] == (pytest.approx(lr_scale, rel=1e-12), weight_decay), name


def test_schedule_of_sapiens2() -> None:
    case = json.loads((DATA / "sapiens2_schedule.json").read_text())
    law = Schedule("linear", 5e-4, case["iterations"], 3121, case["warmup"], 5e-6, (1, 2), 0.1)
    for step, factor in zip(case["step"], case["factor"], strict=True):
        assert law.at(step) == pytest.approx(5e-4 * factor, rel=1e-9), step


AFFINE = np.load(DATA / "sapiens2_affine.npz")


@pytest.mark.parametrize("i", sorted({name.split("/")[0] for name in AFFINE.files} - {"img"}))
def test_input_and_keypoints_of_sapiens2(i: str) -> None:
    """Equal to the bit: cubic where the box is enlarged, and nothing of keypoints outside."""
    case = {name.split("/")[1]: AFFINE[name] for name in AFFINE.files if name.startswith(f"{i}/")}
    x1, y1, x2, y2 = case["bbox_xyxy"].astype(float)
    input_wh = tuple(case["out_wh"].tolist())
    bbox = np.array([x1, y1, x2 - x1, y2 - y1])
    center, scale = geometry.bbox_to_center_scale(bbox, 1.25, input_wh)
    np.testing.assert_allclose(np.stack([center, scale]), [case["center"], case["scale"]], 1e-6)
    affine = geometry.udp_affine(center, scale, float(case["rot_deg"]), input_wh)
    codec = sapiens2_codec(input_wh)
    np.testing.assert_array_equal(codec.warp(AFFINE["img"], affine), case["img_out"])
    assert geometry.enlarges(affine) == (str(case["interpolation"]) == "cubic")
    points = geometry.apply_affine(affine, case["kpts"].astype(float))
    targets = codec.encode(points, np.ones(17))
    np.testing.assert_array_equal(targets[:, 2], case["visible_out"])
    np.testing.assert_allclose(targets[:, :2], case["kpts_out"], atol=1e-4)


def sapiens2_codec(input_wh: tuple[int, int]) -> UdpCodec:
    """With as many cells as pixels, so that targets are in input pixels."""
    return UdpCodec(
        "gaussian", input_wh, input_wh, 6.0, 0.0546875, COCO_17.flip_indices, "cubic", "ignore"
    )


def test_pos_embed_resize_drops_the_class_row() -> None:
    case = np.load(DATA / "pos_embed.npz")
    found = convert.fit_pos_embed(torch.from_numpy(case["src"]), (8, 6), adds_class_row=False)
    np.testing.assert_allclose(found.numpy(), case["dst"], atol=1e-6)


def official_name(name: str) -> str:
    pairs = [
        (r"patch_embed\.proj\.", "patch_embed.projection."),
        (r"blocks\.(\d+)\.norm", r"layers.\1.ln"),
        (r"blocks\.(\d+)\.attn", r"layers.\1.attn"),
        (r"blocks\.(\d+)\.mlp\.fc1", r"layers.\1.ffn.layers.0.0"),
        (r"blocks\.(\d+)\.mlp\.fc2", r"layers.\1.ffn.layers.1"),
        (r"^backbone\.norm\.", "backbone.ln1."),
    ]
    for pattern, replacement in pairs:
        name = re.sub(pattern, replacement, name)
    return name


def test_the_model_computes_what_sapiens_computes(tmp_path: Path) -> None:
    """An official pose file, loaded, gives the maps of the restated official forward pass."""
    spec = ModelSpec((96, 128), 16, 2, 64, 2, 4, 0.0, "sapiens", (40, 32), (24, 48), False, 1, 17)
    model, generator = PoseModel(spec).eval(), torch.Generator().manual_seed(0)
    official = {
        official_name(n): torch.randn(t.shape, generator=generator) * 0.2
        + n.endswith("norm.weight")
        for n, t in model.state_dict().items()
    }
    torch.save({"meta": {"epoch": 210}, "state_dict": official}, tmp_path / "pose.pth")
    state, report = convert.convert(read_model(tmp_path / "pose.pth")[0], model, True)
    assert (len(report.loaded), report.resized, report.dropped) == (29 + 8, [], [])
    model.load_state_dict(state)
    images = torch.randn(2, 3, 128, 96, generator=generator)
    with torch.no_grad():
        features = sapiens_reference.features(official, images, 16, 4)
        torch.testing.assert_close(model.features(images), features, atol=1e-5, rtol=1e-5)
        expected = sapiens_reference.heatmaps(official, images, 16, 4)
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "channels"), [("classic", (8, 6)), ("simple", ())])
def test_the_model_computes_what_hugging_face_vitpose_computes(kind: str, channels) -> None:
    """Its class row, its padding of 2, its query, key and value, its heads."""
    spec = ModelSpec((24, 32), 8, 2, 16, 2, 2, 0.0, kind, channels, (), False, 1, 17)
    model, case = PoseModel(spec).eval(), np.load(DATA / "hf_vitpose_io.npz")
    source, _ = read_model(DATA / f"hf_vitpose_{kind}.safetensors")
    state, report = convert.convert(source, model, keep_head=True)
    assert report.dropped == report.missing == []
    model.load_state_dict(state)
    with torch.no_grad():
        found = model(torch.from_numpy(case["images"])).numpy()
    assert 0.3 < np.abs(case[kind]).max() < 30
    np.testing.assert_allclose(found, case[kind], atol=1e-5, rtol=0)
