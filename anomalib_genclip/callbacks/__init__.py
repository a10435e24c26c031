# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Callbacks of a run: setup, input checks, synthetic anomalies, seeds."""
