"""How a command ends: one number for each thing that a script would treat differently."""

from __future__ import annotations

from enum import IntEnum
from typing import final


@final
class ExitCode(IntEnum):
    """How the `meshos` command ended."""

    __module__ = "meshos.cli"

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREADABLE = 3
    SIMULATE = 4
    POLICY = 5
    UNREACHABLE = 6
    TIMEOUT = 7
    DECLINED = 8
    SIGNATURE = 13
    REJECTED = 15
    INTERRUPTED = 130
    CLOSED = 141

    @property
    def says(self) -> str:
        """What it means, as `--help` and docs/cli.md have it."""
        return _SAYS[self]


_SAYS = {
    ExitCode.OK: "all that was asked holds",
    ExitCode.FAILED: "a check failed; the first bad event or record is named",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.UNREADABLE: "a file cannot be read, decoded or written",
    ExitCode.SIMULATE: "nobody looked at what the action touches, or it touches more by now: propose it again",
    ExitCode.POLICY: "the node's operators may not do that, too few of them signed, or not in time",
    ExitCode.UNREACHABLE: "the node cannot be reached, or ended before it answered; a command may have taken effect",
    ExitCode.TIMEOUT: "there was no verdict in time; the command may still take effect",
    ExitCode.DECLINED: "the confirmation or a passphrase was not given",
    ExitCode.SIGNATURE: "a signature does not fit what it is under",
    ExitCode.REJECTED: "the node rejected the command for another reason",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
    ExitCode.CLOSED: "the output was closed before the end",
}


def code_of(kind: str) -> ExitCode:
    """Return how a command ends for an error of a kind, ours or a node's."""
    return _BY_KIND.get(kind, ExitCode.FAILED)


_BY_KIND = {
    kind: code
    for code, kinds in {
        ExitCode.USAGE: "invalid_argument invalid_config invalid_public_key path_too_long",
        ExitCode.UNREADABLE: "unreadable not_private passphrase exists bad_envelope bad_file missing not_a_store "
        "newer_version other_node locked read_only full sync_failed io",
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
