# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The frozen CLIP: supported models, their weights, and the forward passes of both towers."""
