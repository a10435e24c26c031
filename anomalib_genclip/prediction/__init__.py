# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Scoring of any number of images: ``genclip predict``.

A run is a list of chunks of images. :class:`~.scoring.Scorer` writes one file per chunk, a scheduler decides where it
does so, and the tables are what reading all these files gives. What is done is what files are there.
"""
