# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Outputs of the frozen vision tower on disk, for training."""
