"""The tree of errors: each can be told apart, shown, copied and sent to another process."""

import copy
import inspect
import pickle
import subprocess
import sys
import typing
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from meshos import errors
from meshos.chain import CausalEvent
from meshos.channel import ChannelName
from meshos.errors import MeshOsError
from meshos.identity import Identity
from meshos.migration import MigrationFailureReason, MigrationPhase
from meshos.operator import Role

ORIGIN = 0xAB
SHOWN = "00000000000000ab"
SECOND = timedelta(seconds=1)
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
EVENT = CausalEvent.external(origin_hash=7, sequence=3, payload=b"hello")
ENTITIES = tuple(Identity.from_seed(bytes([n]) * 32).entity_id for n in (1, 2))

GROUPS = {MeshOsError, errors.VerifyError, errors.DaemonError, errors.ChainError}
EXAMPLES: list[MeshOsError] = [
    errors.ConfigError("outputs_max", "must be at least 1, not 0"),
    errors.InvalidArgument("sequence", "must be at least 1, not 0"),
    errors.ReentrantCallError("send"),
    errors.ForkedProcessError("this DaemonRuntime"),
    errors.PoisonedError("deliver", "index out of bounds"),
    errors.LoopClosed("the runtime"),
    errors.InvariantViolation("SameState", 3, 812, "simulate(Counter, seed=3)", ("node 1 crashes", "it differs")),
    errors.WaitTimeout("the predicate to hold", SECOND),
    errors.QueueFull("the event queue", 1024),
    errors.Backpressure(timedelta(milliseconds=50)),
    errors.Unavailable(ORIGIN, "the directory was silent for 5 s"),
    errors.RuntimeShutdownError("loop_timeout", "the loop did not end within 5 s"),
    errors.RuntimeShutdownError("loop_failed", "the loop ended by a bug of ours"),
    errors.RuntimeShutdownError("executor_timeout", "a dispatch did not end within 5 s"),
    errors.RuntimeShutdownError("appender_timeout", "an appender did not keep its records within 5 s"),
    errors.InvalidDaemon("not_a_mesh_daemon", "int", "it is not a subclass of MeshDaemon"),
    errors.InvalidDaemon("snapshot_without_restore", "Counter", "it overrides `snapshot` only"),
    errors.InvalidDaemon("restore_without_snapshot", "Counter", "it overrides `restore` only"),
    errors.InvalidDaemon("bad_signature", "Counter", "`process` cannot be called with one positional argument"),
    errors.InvalidDaemon("bad_name", "Counter", "`name` is empty"),
    errors.InvalidDaemon("factory_failed", "make_counter", "it raised KeyError"),
    errors.DaemonNotFound(ORIGIN),
    errors.NotOwner(ORIGIN, 7, 2),
    errors.Migrating(ORIGIN, timedelta(milliseconds=50)),
    errors.MigrationError("rejected", ORIGIN, None, MigrationFailureReason.NOT_EXPECTED, "nobody expects it"),
    errors.MigrationError("aborted", ORIGIN, MigrationPhase.TRANSFER, MigrationFailureReason.CANCELLED, ""),
    errors.MigrationError("no_target", ORIGIN, None, None, "node 00000000000000cd was not heard of"),
    errors.MigrationError("already_migrating", ORIGIN, None, MigrationFailureReason.ALREADY_MIGRATING, ""),
    errors.MigrationError("source_lost", ORIGIN, MigrationPhase.CUTOVER, None, "it was silent for 30 s"),
    errors.StaleDaemon(ORIGIN),
    errors.AlreadyRegistered(ORIGIN),
    errors.AlreadyStored(ORIGIN),
    errors.NotReady(),
    errors.ShuttingDown(),
    errors.FactoryNotFound("counter"),
    errors.FactoryAlreadyRegistered("counter"),
    errors.ProcessFailed("raised", ORIGIN, 7, 3, "process raised KeyError", ((EVENT,), ())),
    errors.ProcessFailed("wrong_type", ORIGIN, 7, 3, "process returned an int"),
    errors.ProcessFailed("sequence_exhausted", ORIGIN, 7, 3, "the chain has no numbers left"),
    errors.ProcessFailed("passed_over", ORIGIN, 7, 4, "it failed too often on its node, and was passed over"),
    errors.CallbackFailed("raised", ORIGIN, "on_control", "it raised KeyError"),
    errors.CallbackFailed("wrong_type", ORIGIN, "saturation", "it returned a str"),
    errors.SendTimeout(ORIGIN, EVENT),
    errors.DeliveryUnknown(ORIGIN, EVENT, 99),
    errors.SnapshotFailed("raised", ORIGIN, "snapshot raised KeyError"),
    errors.SnapshotFailed("wrong_type", ORIGIN, "snapshot returned an int"),
    errors.RestoreFailed("raised", ORIGIN, "restore raised KeyError"),
    errors.RestoreFailed("stateless", ORIGIN, "the snapshot has 4 bytes of state, and the daemon keeps none"),
    errors.RestoreFailed("wrong_kind", ORIGIN, "the snapshot is of kind 'a', the daemon of kind 'b'"),
    errors.RestoreFailed("newer_schema", ORIGIN, "the state has schema 3, the daemon 2"),
    errors.RestoreFailed("bad_bindings", ORIGIN, "the subscriptions cannot be read"),
    errors.RestoreFailed("wrong_chain", ORIGIN, "the snapshot is of another chain"),
    errors.RestoreFailed("failed", ORIGIN, "it could not be restored after an error"),
    errors.DivergenceError(ORIGIN, 7),
    errors.StaleSnapshot(ORIGIN, 3, 5, "outputs"),
    errors.SnapshotIdentityMismatch(*ENTITIES),
    errors.BrokenLink("gap", ORIGIN, 4, 4, 6),
    errors.BrokenLink("altered", ORIGIN, 4, 1, 2),
    errors.BrokenLink("forked", ORIGIN, 4, 1, 2),
    errors.BrokenLink("wrong_origin", ORIGIN, 4, ORIGIN, 2),
    errors.BrokenLink("receipt", ORIGIN, 4, 1, 2),
    errors.BadSignature(ORIGIN, 4, "the checkpoint is not signed by the node"),
    errors.FileDecodeError(12, "the file ends inside a record"),
    errors.AppendFailed("audit.chain: it is closed"),
    errors.SnapshotDecodeError("corrupt", 12, "the digest does not match"),
    errors.SnapshotDecodeError("truncated", 12, "4 bytes are missing"),
    errors.SnapshotDecodeError("too_large", 0, "it has 20 bytes, more than 10"),
    errors.SnapshotDecodeError("newer_version", 4, "it has version 9"),
    errors.SnapshotDecodeError("unknown_section", 8, "section 99"),
    errors.IdentityError("invalid_public_key", "not a point of the curve"),
    errors.IdentityError("invalid_signature", "the signature is of another key or message"),
    errors.IdentityError("read_only", "the key has no secret half"),
    errors.IdentityError("sealed_for_another", "it was not sealed by this node"),
    errors.TokenError("invalid_signature", "grant 1: its issuer did not sign it", 1),
    errors.TokenError("not_yet_valid", "grant 0: it begins later", 0),
    errors.TokenError("expired", "grant 0: it has ended", 0),
    errors.TokenError("delegation_exhausted", "grant 2: it may not be passed on any more", 2),
    errors.TokenError("delegation_not_allowed", 'grant 0: it does not have the right "delegate"', 0),
    errors.TokenError("not_authorized", "grant 0: it is for another channel", 0),
    errors.TokenError("revoked", "grant 0: it was revoked", 0),
    errors.TokenError("invalid_format", "byte 2: invalid rights"),
    errors.TokenError("read_only", "grant 0: the identity is public only and cannot sign", 0),
    errors.TokenError("zero_ttl", "grant 0: it lasts less than one second", 0),
    errors.TokenError("ttl_too_long", "grant 0: it lasts longer than 365 days", 0),
    errors.SubscribeRejected("unauthorized", ORIGIN, ChannelName("plant/alarms")),
    errors.SubscribeRejected("rate_limited", ORIGIN, ChannelName("plant/alarms")),
    errors.SubscribeRejected("too_many_channels", ORIGIN, ChannelName("plant/alarms")),
    errors.PublishRejected("unauthorized", ORIGIN, ChannelName("plant/alarms")),
    errors.PublishRejected("too_many_channels", ORIGIN, ChannelName("plant/alarms")),
    errors.PublishRejected("closed", ORIGIN, ChannelName("plant/alarms")),
    errors.PublishRejected("too_large", ORIGIN, ChannelName("plant/alarms")),
    errors.ChainContradiction("lineage", ORIGIN, 7, 3),
    errors.ChainContradiction("parent", ORIGIN, 7, 3),
    errors.ChainContradiction("altered", ORIGIN, 7, 3),
    errors.ChainContradiction("overrun", ORIGIN, 7, 3),
    errors.ChainContradiction("short", ORIGIN, 7, 3),
    errors.RemoteRefused("not_permitted", 7, "it does not let this node do so"),
    errors.RemoteRefused("failed", 7, "ValueError: no"),
    errors.ChannelNameError("empty", ""),
    errors.ChannelNameError("too_long", "a" * 300),
    errors.ChannelNameError("invalid_char", "Ünicode"),
    errors.ChannelNameError("invalid_segment", "a//b"),
    errors.EnvelopeDecodeError(12, "invalid option"),
    errors.PruneRefused("unprovable", ORIGIN, 25, 20),
    errors.PruneRefused("needed", ORIGIN, 41, 40),
    errors.StoreError("missing", "/var/lib/node", "as the text says"),
    errors.StoreError("not_a_store", "/var/lib/node", "as the text says"),
    errors.StoreError("newer_version", "/var/lib/node", "as the text says"),
    errors.StoreError("other_node", "/var/lib/node", "as the text says"),
    errors.StoreError("locked", "/var/lib/node", "as the text says"),
    errors.StoreError("read_only", "/var/lib/node", "as the text says"),
    errors.StoreError("full", "/var/lib/node", "as the text says"),
    errors.StoreError("sync_failed", "/var/lib/node", "as the text says"),
    errors.StoreError("io", "/var/lib/node", "as the text says"),
    errors.StoreError("corrupt", "/var/lib/node", "as the text says"),
    errors.StoreError("too_large", "/var/lib/node", "as the text says"),
    errors.StoreError("superseded", "/var/lib/node", "as the text says"),
    errors.StoreError("closed", "/var/lib/node", "as the text says"),
    errors.KeyFileError("unreadable", "/home/alice/operator.key"),
    errors.KeyFileError("not_private", "/home/alice/operator.key"),
    errors.KeyFileError("passphrase", "/home/alice/operator.key"),
    errors.KeyFileError("exists", "/home/alice/operator.key"),
    errors.OperatorSocketError("unsupported", "/run/node.socket"),
    errors.OperatorSocketError("path_too_long", "/run/node.socket"),
    errors.OperatorSocketError("occupied", "/run/node.socket"),
    errors.OperatorSocketError("failed", "/run/node.socket"),
    errors.OperatorSocketError("busy", "/run/node.socket"),
    errors.OperatorSocketError("bad_frame", "/run/node.socket"),
    errors.NoVerifier(7),
    errors.UnsignedRejected(7),
    errors.NotAuthorized(ORIGIN, 7),
    errors.RoleDenied(ORIGIN, Role.ICE, 7),
    errors.SignatureInvalid(ORIGIN, 7),
    errors.InsufficientSignatures(1, 2, 7),
    errors.BundleTooLarge(65, 64, 7),
    errors.EnvelopeExpired(NOON, NOON + SECOND, 7),
    errors.EnvelopeFromFuture(NOON, 7),
    errors.Replayed(bytes(range(16)), 3, 7),
    errors.Overloaded(7),
    errors.WrongCluster(7),
    errors.SimulationRequired(7),
    errors.InvalidSpan(7),
    errors.PreviewStale(("node:4", "daemon:9"), 7),
    errors.CooldownActive("node:7", NOON, 7),
    errors.FreezeInEffect(NOON, 7),
    errors.IceRequiresBundle(7),
    errors.AuditRequired(7),
]
RETRYABLE = {
    errors.WaitTimeout,
    errors.QueueFull,
    errors.Backpressure,
    errors.Unavailable,
    errors.StaleDaemon,
    errors.Migrating,
    errors.Overloaded,
}
TREE = {
    errors.ConfigError: (MeshOsError, ValueError),
    errors.InvalidArgument: (MeshOsError, ValueError),
    errors.ReentrantCallError: (MeshOsError, RuntimeError),
    errors.ForkedProcessError: (MeshOsError, RuntimeError),
    errors.PoisonedError: (MeshOsError, RuntimeError),
    errors.LoopClosed: (MeshOsError,),
    errors.InvariantViolation: (MeshOsError, AssertionError),
    errors.WaitTimeout: (MeshOsError, TimeoutError),
    errors.QueueFull: (MeshOsError,),
    errors.Backpressure: (MeshOsError,),
    errors.Unavailable: (MeshOsError,),
    errors.RuntimeShutdownError: (MeshOsError,),
    errors.InvalidDaemon: (errors.DaemonError, TypeError),
    errors.DaemonNotFound: (errors.DaemonError, LookupError),
    errors.NotOwner: (errors.DaemonError,),
    errors.RemoteRefused: (errors.DaemonError,),
    errors.Migrating: (errors.DaemonError,),
    errors.MigrationError: (errors.DaemonError,),
    errors.StaleDaemon: (errors.DaemonError,),
    errors.AlreadyRegistered: (errors.DaemonError,),
    errors.AlreadyStored: (errors.DaemonError,),
    errors.NotReady: (errors.DaemonError,),
    errors.ShuttingDown: (errors.DaemonError,),
    errors.FactoryNotFound: (errors.DaemonError, LookupError),
    errors.FactoryAlreadyRegistered: (errors.DaemonError,),
    errors.ProcessFailed: (errors.DaemonError,),
    errors.CallbackFailed: (errors.DaemonError,),
    errors.SendTimeout: (errors.DaemonError, TimeoutError),
    errors.DeliveryUnknown: (errors.DaemonError,),
    errors.SnapshotFailed: (errors.DaemonError,),
    errors.RestoreFailed: (errors.DaemonError,),
    errors.DivergenceError: (errors.DaemonError,),
    errors.StaleSnapshot: (errors.DaemonError,),
    errors.SnapshotIdentityMismatch: (errors.DaemonError,),
    errors.ChainContradiction: (errors.ChainError,),
    errors.BrokenLink: (errors.ChainError,),
    errors.BadSignature: (errors.ChainError,),
    errors.FileDecodeError: (errors.ChainError,),
    errors.AppendFailed: (errors.ChainError,),
    errors.PruneRefused: (errors.ChainError,),
    errors.SnapshotDecodeError: (errors.ChainError,),
    errors.IdentityError: (MeshOsError,),
    errors.TokenError: (MeshOsError,),
    errors.PublishRejected: (MeshOsError,),
    errors.SubscribeRejected: (errors.DaemonError,),
    errors.ChannelNameError: (MeshOsError, ValueError),
    errors.EnvelopeDecodeError: (MeshOsError,),
    errors.StoreError: (MeshOsError,),
    errors.KeyFileError: (MeshOsError,),
    errors.OperatorSocketError: (MeshOsError,),
    errors.NoVerifier: (errors.VerifyError,),
    errors.UnsignedRejected: (errors.VerifyError,),
    errors.NotAuthorized: (errors.VerifyError,),
    errors.RoleDenied: (errors.VerifyError,),
    errors.SignatureInvalid: (errors.VerifyError,),
    errors.InsufficientSignatures: (errors.VerifyError,),
    errors.BundleTooLarge: (errors.VerifyError,),
    errors.EnvelopeExpired: (errors.VerifyError,),
    errors.EnvelopeFromFuture: (errors.VerifyError,),
    errors.Replayed: (errors.VerifyError,),
    errors.Overloaded: (errors.VerifyError,),
    errors.WrongCluster: (errors.VerifyError,),
    errors.SimulationRequired: (errors.VerifyError,),
    errors.InvalidSpan: (errors.VerifyError,),
    errors.PreviewStale: (errors.VerifyError,),
    errors.CooldownActive: (errors.VerifyError,),
    errors.FreezeInEffect: (errors.VerifyError,),
    errors.IceRequiresBundle: (errors.VerifyError,),
    errors.AuditRequired: (errors.VerifyError,),
}

every_example = pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: f"{type(error).__name__}-{error.kind}")


def classes(root: type[MeshOsError] = MeshOsError) -> set[type[MeshOsError]]:
    """Every class of the tree that the module defines."""
    below = {found for child in root.__subclasses__() for found in classes(child)}
    return {cls for cls in {root, *below} if cls.__module__ == errors.__name__}


def test_no_class_is_without_an_example() -> None:
    assert {type(error) for error in EXAMPLES} == classes() - GROUPS


@pytest.mark.parametrize("cls", sorted(classes() - GROUPS, key=str))
def test_no_kind_is_without_an_example(cls: type[MeshOsError]) -> None:
    declared = typing.get_type_hints(vars(cls)["kind"].fget)["return"]
    literals = typing.get_args(declared) if typing.get_origin(declared) is not Literal else (declared,)

    kinds = {kind for literal in literals for kind in typing.get_args(literal)}
    assert {error.kind for error in EXAMPLES if type(error) is cls} == kinds


def test_the_tree_is_as_written_here() -> None:
    assert {cls: cls.__bases__ for cls in classes() - GROUPS} == TREE
    assert {cls: cls.__bases__ for cls in GROUPS} == {
        MeshOsError: (Exception,),
        errors.VerifyError: (MeshOsError,),
        errors.DaemonError: (MeshOsError,),
        errors.ChainError: (MeshOsError,),
        errors.VerifyError: (MeshOsError,),
    }


@every_example
def test_an_error_survives_pickling_and_copying(error: MeshOsError) -> None:
    error.add_note("a note")
    twins = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    twins += [copy.copy(error), copy.deepcopy(error)]

    for twin in twins:
        assert type(twin) is type(error)
        assert twin.args == error.args
        assert vars(twin) == vars(error)
        assert (str(twin), repr(twin), twin.kind) == (str(error), repr(error), error.kind)


@every_example
def test_arguments_are_args_and_attributes(error: MeshOsError) -> None:
    parameters = list(inspect.signature(type(error)).parameters)

    assert len(error.args) == len(parameters)
    for name, value in zip(parameters, error.args, strict=True):
        assert name == "message" or getattr(error, name) == value
    assert vars(type(error)(*error.args)) == {k: v for k, v in vars(error).items() if k != "__notes__"}


@every_example
def test_text_is_one_phrase_that_names_the_values(error: MeshOsError) -> None:
    text = str(error)

    assert text[0].islower()
    assert not text.endswith(".")
    assert "\n" not in text
    for name in ("origin_hash", "origin", "what"):
        if getattr(error, name, None) == ORIGIN:
            assert SHOWN in text
    for name in ("sequence", "event_sequence", "cursor", "known", "offset", "daemon_kind", "daemon_class", "field"):
        if hasattr(error, name):
            assert str(getattr(error, name)) in text


@every_example
def test_repr_shows_class_kind_and_text(error: MeshOsError) -> None:
    assert repr(error) == f"<{type(error).__name__} {error.kind!r}: {error}>"


@every_example
def test_retryable_means_that_the_same_call_may_succeed(error: MeshOsError) -> None:
    assert error.retryable is (type(error) in RETRYABLE)


@every_example
def test_kind_and_retryable_cannot_be_set(error: MeshOsError) -> None:
    for name in ("kind", "retryable"):
        with pytest.raises(AttributeError):
            setattr(error, name, "other")


@every_example
def test_the_constructor_takes_no_more_and_no_less(error: MeshOsError) -> None:
    cls: type[Exception] = type(error)

    with pytest.raises(TypeError):
        cls(*error.args, "one more")
    if any(parameter.default is parameter.empty for parameter in inspect.signature(cls).parameters.values()):
        with pytest.raises(TypeError):
            cls()


@pytest.mark.parametrize("cls", [errors.WaitTimeout, errors.SendTimeout])
def test_a_timeout_is_no_failed_call_of_the_system(cls: type[MeshOsError]) -> None:
    error = next(error for error in EXAMPLES if type(error) is cls)

    assert isinstance(error, TimeoutError)
    assert (error.errno, error.strerror, error.filename) == (None, None, None)


def test_sending_again_after_a_timeout_is_not_called_retryable() -> None:
    """A loop that repeats `send(payload)` would send another event: only `error.event` continues the same one."""
    error = errors.SendTimeout(ORIGIN, EVENT)

    assert not error.retryable
    assert error.event == EVENT


def test_a_gap_shows_sequences_and_an_altered_event_digests() -> None:
    assert "expected 4, found 6" in str(errors.BrokenLink("gap", ORIGIN, 4, 4, 6))
    assert f"expected {1:016x}, found {2:016x}" in str(errors.BrokenLink("altered", ORIGIN, 4, 1, 2))


def test_a_long_channel_name_is_cut_in_the_text_only() -> None:
    error = errors.ChannelNameError("too_long", "a" * 100_000)

    assert len(str(error)) < 200
    assert len(error.name) == 100_000


def test_an_identity_mismatch_names_both_keys() -> None:
    error = errors.SnapshotIdentityMismatch(*ENTITIES)

    assert all(entity.hex() in str(error) for entity in ENTITIES)


def test_a_subclass_of_a_user_is_ordinary() -> None:
    class Overdrawn(errors.DaemonError):
        """What a bank would say."""

    error = Overdrawn("account 7", 3)

    assert error.args == ("account 7", 3)
    assert (error.kind, error.retryable) == ("other", False)
    assert str(Overdrawn("account 7")) == "account 7"


def test_a_refusal_says_where_it_is_recorded_and_need_not() -> None:
    refusals = [error for error in EXAMPLES if isinstance(error, errors.VerifyError)]

    assert {error.audit_seq for error in refusals} == {7}
    for error in refusals:
        assert type(error)(*error.args[:-1]).audit_seq is None


def test_a_replay_need_not_know_when_it_was_accepted() -> None:
    error = errors.Replayed(bytes(16), None)

    assert (error.accepted_as, str(error)) == (None, f"envelope {'00' * 16} was accepted before")


def test_a_long_drift_is_cut_in_the_text_only() -> None:
    error = errors.PreviewStale(tuple(f"node:{number}" for number in range(10_000)))

    assert len(str(error)) < 200
    assert len(error.drift) == 10_000


def test_every_class_says_what_happened() -> None:
    for cls in classes():
        assert cls.__doc__ is not None
        assert cls.__module__ == "meshos.errors"


def test_all_has_every_class_and_every_alias() -> None:
    public = {name for name, value in vars(errors).items() if getattr(value, "__module__", None) == errors.__name__}
    aliases = {name for name in vars(errors) if name.endswith(("Kind", "Callback"))}

    assert set(errors.__all__) == {name for name in public if not name.startswith("_")} | aliases


def test_errors_stand_alone() -> None:
    """The native module imports them; they must not need it, nor anything slow."""
    code = "import sys, meshos.errors; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not {"meshos._core", "asyncio", "logging", "nacl", "datetime"} & set(done.stdout.split())
