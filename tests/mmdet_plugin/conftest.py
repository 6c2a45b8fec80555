"""What the tests of detection share."""

import logging

import pytest
from mmengine.logging import MMLogger


@pytest.fixture
def logged(caplog):
    """The lines that are logged."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG]
    logger.removeHandler(caplog.handler)
