# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Scoring of any number of images: ``genclip predict``.

The stages: find images (sources), read them (images), run the model (backends), make rows (records), write the rows to
disk during the run (parts), and join them to tables at the end (tables).
"""
