# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The frozen CLIP: which one, where its weights come from, and how its towers are run."""
