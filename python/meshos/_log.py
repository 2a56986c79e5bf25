"""Where failures of callbacks are written: the logger `meshos`."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshos.events import LogLevel
    from meshos.runtime import MeshOsDaemonHandle

_logger = logging.getLogger("meshos")
_TRACEBACK_MAX = 16_384


def callback_failed(what: str, error: BaseException) -> None:
    """Log an exception that user code raised where nobody waits for it."""
    _logger.error("%s", what, exc_info=error)


def traceback_of(error: BaseException) -> str:
    """Return where an exception came from; the end of it, when that is long."""
    text = "".join(traceback.format_exception(error))
    return text if len(text) <= _TRACEBACK_MAX else "…" + text[-_TRACEBACK_MAX:]


class _RingHandler(logging.Handler):
    """Hands what is logged to the log ring of a daemon."""

    def __init__(self, handle: MeshOsDaemonHandle) -> None:
        super().__init__()
        self._handle = handle

    def emit(self, record: logging.LogRecord) -> None:
        """Add the message to the ring; a loop that has ended has no ring any more."""
        from meshos.errors import LoopClosed

        try:
            self._handle.log(_level(record.levelno), self.format(record))
        except LoopClosed:
            self.handleError(record)


def _level(number: int) -> LogLevel:
    from meshos.events import LogLevel

    for least, level in (
        (logging.ERROR, LogLevel.ERROR),
        (logging.WARNING, LogLevel.WARN),
        (logging.INFO, LogLevel.INFO),
        (logging.DEBUG, LogLevel.DEBUG),
    ):
        if number >= least:
            return level
    return LogLevel.TRACE


def ring_logger(handle: MeshOsDaemonHandle) -> logging.Logger:
    """Make a logger that ends in a daemon's `log`; it is not in the tree of named loggers."""
    logger = logging.Logger(f"meshos.daemon.{handle.daemon.name or handle.daemon.id}")
    logger.addHandler(_RingHandler(handle))
    return logger
