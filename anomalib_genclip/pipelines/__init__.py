# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Pipelines of the command ``genclip``: comparison of models, ablation, the paper's protocols, explanations, publication."""
