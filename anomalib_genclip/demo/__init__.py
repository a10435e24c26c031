# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The bundled demonstration: a small CLIP, trained prompts and rendered defects."""
