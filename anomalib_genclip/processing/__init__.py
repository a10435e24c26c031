# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What anomalib runs before and after the model: pre-processor, post-processor, visualizer."""
