"""Where failures of callbacks are written: the logger `meshos`."""

import logging
import traceback

_logger = logging.getLogger("meshos")
_TRACEBACK_MAX = 16_384


def callback_failed(what: str, error: BaseException) -> None:
    """Log an exception that user code raised where nobody waits for it."""
    _logger.error("%s", what, exc_info=error)


def traceback_of(error: BaseException) -> str:
    """Return where an exception came from; the end of it, when that is long."""
    text = "".join(traceback.format_exception(error))
    return text if len(text) <= _TRACEBACK_MAX else "…" + text[-_TRACEBACK_MAX:]
