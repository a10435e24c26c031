# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Pipelines: models compared on the same images, GenCLIP without some of its parts, the paper's protocols.

- :mod:`.comparison` compares models: ``python -m anomalib_genclip.benchmark``
- :mod:`.ablation` switches parts of a trained GenCLIP off: ``python -m anomalib_genclip.ablation``
- :mod:`.reproduce` runs the paper's protocols: ``python -m anomalib_genclip.reproduce``
"""
