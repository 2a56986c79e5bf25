"""Where failures of callbacks are written: the logger `meshos`."""

import logging

_logger = logging.getLogger("meshos")


def callback_failed(what: str, error: BaseException) -> None:
    """Log an exception that user code raised where nobody waits for it."""
    _logger.error("%s", what, exc_info=error)
