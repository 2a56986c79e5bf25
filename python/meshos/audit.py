"""Records of what was commanded, logged, done and what failed."""

from typing import TypeAlias

from meshos._core import ActionRecord as ActionRecord
from meshos._core import AdminAuditRecord as AdminAuditRecord
from meshos._core import FailureRecord as FailureRecord
from meshos._core import FailureSource as FailureSource
from meshos._core import LogRecord as LogRecord

__all__ = ["ActionRecord", "AdminAuditRecord", "FailureRecord", "FailureSource", "LogRecord", "Record"]

Record: TypeAlias = AdminAuditRecord | LogRecord | FailureRecord | ActionRecord
"""What an appender keeps."""
