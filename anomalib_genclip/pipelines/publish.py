# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Publication of a prompts file on the Hugging Face Hub, with a model card."""

import json
import shutil
from pathlib import Path

from huggingface_hub import HfApi, ModelCardData
from huggingface_hub.utils import validate_repo_id

from anomalib_genclip import __version__
from anomalib_genclip.evaluation.report import ResultTable
from anomalib_genclip.persistence.prompts_file import LearnedWeights, load_weights
from anomalib_genclip.persistence.weights_files import resolve_weights
from anomalib_genclip.utils.files import atomic_write_folder, file_hash, why_unreadable
from anomalib_genclip.utils.messages import quiet

CARD, PROMPTS, REPORT = "README.md", "prompts.safetensors", "metrics.json"
_TO_FILL_IN = "to be filled in by the publisher"


def publish(
    weights: str,
    repo: str,
    output: str | Path,
    report: str | None = None,
    license_id: str | None = None,
    *,
    upload: bool = True,
) -> str:
    """Write a folder with a prompts file and its model card, and upload it.

    ``ValueError`` or ``FileNotFoundError``: invalid input. ``ConnectionError``: no upload, but the folder is complete.
    """
    validate_repo_id(repo)
    if "/" not in repo:
        msg = f"repo={repo!r} must be owner/name."
        raise ValueError(msg)
    learned, file = load_weights(weights), resolve_weights(weights)
    figures = f"Figures: {_TO_FILL_IN}."
    try:
        if report is not None:
            figures = ResultTable(**json.loads(Path(report).read_text(encoding="utf-8"))).as_markdown()
    except (ValueError, TypeError, AttributeError) as error:
        msg = f"{report} is not the metrics.json of a test run."
        raise ValueError(msg) from error
    card = _model_card(learned, file_hash(file), repo, figures, license_id)

    def write(folder: Path) -> Path:
        shutil.copyfile(file, folder / PROMPTS)
        if report is not None:
            shutil.copyfile(report, folder / REPORT)
        (folder / CARD).write_text(card, encoding="utf-8")
        return folder / CARD

    atomic_write_folder(Path(output), write)
    if not upload:
        return str(output)
    try:
        with quiet("huggingface_hub"):
            hub = HfApi()
            hub.create_repo(repo, exist_ok=True)
            return str(hub.upload_folder(repo_id=repo, folder_path=output, allow_patterns=[CARD, PROMPTS, REPORT]))
    except Exception as error:  # noqa: BLE001  # versions of the client raise different types
        msg = (
            f"{output} is written, but could not be uploaded to {repo}: {why_unreadable(error)}\n"
            "Log in with `hf auth login`, and run the command again."
        )
        raise ConnectionError(msg) from None


def _model_card(learned: LearnedWeights, checksum: str, repo: str, figures: str, license_id: str | None) -> str:
    """Format data, settings, figures, and how to use the prompts."""
    header = ModelCardData(
        license=license_id or "unknown",
        library_name="anomalib",
        pipeline_tag="zero-shot-image-classification",
        tags=["anomaly-detection", "zero-shot", "genclip"],
    )
    signature, description = learned.signature, learned.description
    settings: dict[str, str] = {
        "Training data": description.trained_on or _TO_FILL_IN,
        "License": license_id or _TO_FILL_IN,
        "CLIP": f"{signature.backbone}, weights {description.pretrained}, fingerprint `{signature.fingerprint}`",
        "Image size": f"{description.image_size[0]} by {description.image_size[1]} px",
        "Feature layers": ", ".join(map(str, signature.layers)),
        "Patch attention": signature.patch_attention,
        "Prompt lengths": f"n = q = {signature.prompt_length}",
        "Thresholds": ", ".join(f"{name} {float(value):.4f}" for name, value in learned.thresholds.items()),
        **{str(name): str(value) for name, value in description.inference.items()},
        "SHA-256": f"`{checksum}`",
        "Written by": f"anomalib-genclip {__version__}",
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    return f"""---
{header.to_yaml()}
---
# {repo.rpartition("/")[2]}

Prompts for [GenCLIP](https://arxiv.org/abs/2504.14919), zero-shot anomaly detection with CLIP, as a model of
[anomalib](https://github.com/open-edge-platform/anomalib). The file holds the learned tensors, without CLIP.

## Use

```bash
genclip predict --weights hf://{repo}/{PROMPTS} --class_name "metal nut" --data images --out results
anomalib test --model GenCLIP --model.weights hf://{repo}/{PROMPTS} --data MVTecAD
```

```python
from anomalib_genclip import Inferencer

record = Inferencer("hf://{repo}/{PROMPTS}", class_name="metal nut").predict("part.png")
```

## Training

| | |
|---|---|
{rows}

## Figures

{figures}
"""
