"""Front matter of a model card as the Hugging Face Hub reads it: licence, task, scores."""

from __future__ import annotations

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

SAPIENS = "cc-by-nc-4.0"
RENDERED = "rendered people of this project"
DATASETS = {"synthetic": RENDERED, "coco": "COCO 2017", "local": "own annotations"}


def licence(provenance: dict[str, Any]) -> tuple[str | None, str]:
    """The Hub's name of the licence, None if nobody else's binds, and a sentence about it.

    provenance: of the starting weights, as fetch_weights wrote it.
    """
    source = str(provenance.get("source", "unknown"))
    if "sapiens" in source.lower():
        return SAPIENS, "Sapiens' weights are CC BY-NC 4.0, and so is what is trained from them."
    if source.startswith("random initialisation"):
        return None, "The weights started from random numbers: no other model's licence binds them."
    return "other", "The licence of the starting weights binds these as well; see their source."


def front_matter(name: str, licence_id: str | None, source: str, scores: dict[str, float]) -> str:
    """YAML of the card's head; source: data.source, scores by COCO's names, none if unknown."""
    results = [
        EvalResult(
            task_type="keypoint-detection",
            dataset_type=source,
            dataset_name=DATASETS[source],
            metric_type=metric,
            metric_value=round(value, 4),
        )
        for metric, value in scores.items()
    ]
    card = ModelCardData(
        license=licence_id,
        license_name="as-the-starting-weights" if licence_id == "other" else None,
        pipeline_tag="keypoint-detection",
        tags=["pose-estimation", "top-down", "vit", "onnx"],
        model_name=name,
        eval_results=results or None,
    )
    return card.to_yaml()
