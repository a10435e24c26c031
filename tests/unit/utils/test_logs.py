# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Log messages of other packages."""

import logging

import pytest

from anomalib_genclip.utils.logs import quiet


@pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO])
def test_warnings_are_suppressed_until_the_end_even_of_an_error(caplog, level):
    logger = logging.getLogger("other.package")
    logger.setLevel(level)
    with pytest.raises(KeyError), quiet("other"):  # noqa: PT012
        logging.getLogger("other.client").warning("retrying")
        raise KeyError
    logging.getLogger("other.client").warning("after")
    assert caplog.messages == ["after"]
    with quiet("other.package"):
        logger.warning("retrying")
    assert logger.level == level
