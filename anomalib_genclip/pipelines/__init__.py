# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What the commands of ``genclip`` do, other than ``predict`` and ``app``."""
