"""How a command ends: one number for each thing that a script would treat differently."""

from __future__ import annotations

from enum import IntEnum
from typing import final


@final
class ExitCode(IntEnum):
    """How the `meshos` command ended; `says` is what docs/cli.md and `--help` say of it."""

    __module__ = "meshos.cli"

    def __new__(cls, number: int, says: str) -> ExitCode:
        """Make a code."""
        code = int.__new__(cls, number)
        code._value_ = number
        code.says = says
        return code

    says: str

    OK = 0, "all that was asked holds"
    FAILED = 1, "a check failed; the first bad event or record is named"
    USAGE = 2, "the command line is wrong"
    UNREADABLE = 3, "a file cannot be read, decoded or written"
    SIMULATE = 4, "nobody looked at what the action touches, or it touches more by now: propose it again"
    POLICY = 5, "the node's operators may not do that, too few of them signed, or not in time"
    UNREACHABLE = 6, "the node cannot be reached, or ended before it answered; a command may have taken effect"
    TIMEOUT = 7, "there was no verdict in time; the command may still take effect"
    DECLINED = 8, "the confirmation was not given"
    SIGNATURE = 13, "a signature does not fit what it is under"
    REJECTED = 15, "the node rejected the command for another reason"
    INTERRUPTED = 130, "interrupted by Ctrl-C"
    CLOSED = 141, "the output was closed before the end"


def code_of(kind: str) -> ExitCode:
    """Return how a command ends for an error of a kind, ours or a node's."""
    return _BY_KIND.get(kind, ExitCode.FAILED)


_BY_KIND = {
    kind: code
    for code, kinds in {
        ExitCode.USAGE: "invalid_argument invalid_config path_too_long",
        ExitCode.UNREADABLE: "unreadable not_private passphrase exists bad_envelope bad_file",
        ExitCode.SIMULATE: "simulation_required preview_stale",
        ExitCode.POLICY: "no_verifier unsigned_rejected not_authorized role_denied insufficient_signatures "
        "bundle_too_large envelope_expired envelope_from_future ice_cooldown_active",
        ExitCode.UNREACHABLE: "unsupported failed busy bad_frame closed",
        ExitCode.TIMEOUT: "timeout",
        ExitCode.SIGNATURE: "signature_invalid",
        ExitCode.REJECTED: "wrong_cluster replayed freeze_in_effect overloaded invalid_span ice_requires_bundle "
        "audit_required",
    }.items()
    for kind in kinds.split()
}
