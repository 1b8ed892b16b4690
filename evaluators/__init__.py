"""Evaluators, one file each. The one table of built-in evaluators."""

BUILTIN = {
    "fidelity": "evaluators.fidelity:Fidelity",
    "faithfulness": "evaluators.faithfulness:Faithfulness",
    "segmentation": "evaluators.segmentation:Segmentation",
    "classification": "evaluators.classification:Classification",
    "detection": "evaluators.detection:Detection",
}
