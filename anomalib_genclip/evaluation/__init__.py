# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Per-category evaluation: figures for every category, their mean, and a report of both."""

from .evaluator import CategoryEvaluator
from .report import write_report
from .result import METRIC_NAMES, EvaluationResult

__all__ = ["METRIC_NAMES", "CategoryEvaluator", "EvaluationResult", "write_report"]
