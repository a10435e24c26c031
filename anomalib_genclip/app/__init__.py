# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The page in the browser that scores images and explains the scores: ``genclip app``."""
