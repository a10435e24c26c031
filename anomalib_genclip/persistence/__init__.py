# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What is written to disk and read back: prompts files, checkpoints."""
