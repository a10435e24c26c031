# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What happens around the steps of a run: checks of the images, synthetic anomalies, seeds."""
