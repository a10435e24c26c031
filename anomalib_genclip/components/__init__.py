# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The stages of the method, from prompts to anomaly maps and the loss.

They do not depend on each other, on Lightning or on anomalib's engine; ``torch_model.py`` combines them.
"""
