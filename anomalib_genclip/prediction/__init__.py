# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Scoring of any number of images: ``genclip predict``.

Which images (sources), decoded (images), scored by a model (backends), made rows of (records), kept on disk while the
run goes on (parts) and joined to tables in the end (tables).
"""
