# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Evaluation per category: metrics of each category, their mean, and a report."""

from .evaluator import CategoryEvaluator
from .report import EvaluationResult
from .scores import METRIC_NAMES

__all__ = ["METRIC_NAMES", "CategoryEvaluator", "EvaluationResult"]
