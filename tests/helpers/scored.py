# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Images that are scored already, and the metrics that anomalib computes of them."""

import torch
from anomalib.metrics import AUPR, AUPRO, AUROC, F1Max

from anomalib_genclip.data.category_dataset import CategoryBatch

SIZE = 24


def scored(category: str, num: int, dataset: str = "set", **changes) -> list[dict]:
    """Make the fields of some images of a category, every second one anomalous; ``changes`` replaces fields."""
    random = torch.Generator().manual_seed(num)
    items = []
    for index in range(num):
        anomalous = index % 2 == 1
        mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        if anomalous:
            top, left, height, width = torch.randint(1, SIZE // 2, (4,), generator=random).tolist()
            mask[top : top + height, left : left + width] = True
            mask[-2:, -2:] = True
        noise = torch.randn(SIZE, SIZE, generator=random)
        fields = {
            "image_path": f"{dataset}/{category}/{index}.png",
            "category": category,
            "dataset": dataset,
            "pred_score": torch.rand((), generator=random) * 0.6 + 0.3 * anomalous,
            "anomaly_map": torch.sigmoid(noise + 1.5 * mask),
            "gt_label": torch.tensor(anomalous),
            "gt_mask": mask,
        }
        items.append(fields | changes)
    return items


def collate(items: list[dict]) -> CategoryBatch:
    columns = {name: [item[name] for item in items] for name in items[0]}
    for name, values in columns.items():
        if values[0] is None:
            columns[name] = None
        elif isinstance(values[0], torch.Tensor):
            columns[name] = torch.stack(values)
    return CategoryBatch(image=torch.zeros(len(items), 3, SIZE, SIZE), **columns)


def anomalib_metrics(items: list[dict]) -> dict[str, float]:
    """Compute anomalib's own metrics, updated batch by batch as its evaluator does."""
    fields = {"image": ["pred_score", "gt_label"], "pixel": ["anomaly_map", "gt_mask"]}
    kinds = {"AUROC": AUROC, "AP": AUPR, "F1Max": F1Max}
    metrics = {f"{level}_{name}": kind(fields=own) for level, own in fields.items() for name, kind in kinds.items()}
    metrics["pixel_AUPRO"] = AUPRO(fields=fields["pixel"])
    for start in range(0, len(items), 4):
        for metric in metrics.values():
            metric.update(collate(items[start : start + 4]))
    return {name: float(metric.compute()) for name, metric in metrics.items()}
