# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A page in the browser that scores images and explains the scores: ``genclip app``.

Images are checked (uploads), scored (detector), drawn (drawing) and described (texts, tables); the page puts it
together, and the server shows the page.
"""
