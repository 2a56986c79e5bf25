"""What an object must offer to be called by the behaviour loop: checked once, when it is installed."""

from types import FunctionType, MethodType
from typing import NamedTuple

from meshos._signature import Rule, misfit

_ASKED = Rule(0, awaited=True)
_GIVEN = Rule(1, awaited=True)
_SAMPLED = Rule(0, awaited=True, iterated=True)


class _Role(NamedTuple):
    """The methods of a role: those that an object must have, and those that it may have."""

    required: dict[str, Rule]
    optional: dict[str, Rule]


_APPENDER = _Role({"append": _GIVEN}, {"close": _ASKED})
_ROLES = {
    "LocalityProbe": _Role({"rtt_samples": _SAMPLED}, {}),
    "HealthProbe": _Role({"health_samples": _SAMPLED}, {}),
    "InventoryProbe": _Role({"inventory_samples": _SAMPLED}, {}),
    "RecoveryHandler": _Role({"__call__": _SAMPLED}, {"has_work": Rule(0)}),
    "PlacementScorer": _Role(
        {"score": Rule(2), "best_alternative": Rule(2)},
        {"live_score": Rule(2), "node_fingerprint": Rule(1), "migration_cost": Rule(2)},
    ),
    "ActionDispatcher": _Role(
        {"dispatch": _GIVEN},
        {"on_cluster_backpressure": _GIVEN, "daemon_registry": Rule(0), "node_id": Rule(0)},
    ),
    "ControlSink": _Role({"emit": _GIVEN}, {}),
    "AdminAuditChainAppender": _APPENDER,
    "LogChainAppender": _APPENDER,
    "FailureChainAppender": _APPENDER,
    "ActionChainAppender": _APPENDER,
    "MigrationAborter": _Role({"abort": _GIVEN}, {"is_no_op": Rule(0)}),
    "MigrationSnapshotSource": _Role({"list": Rule(0, iterated=True)}, {}),
}


def check(role: str, argument: str, candidate: object) -> list[str]:
    """Return which methods of its role `candidate` has.

    Raises:
        TypeError: It cannot be called as the role demands.
    """
    wanted = f"{argument} must be a {role}"
    if isinstance(candidate, type):
        raise TypeError(f"{wanted}: {candidate.__qualname__} is a class, give an instance of it")
    shown = type(candidate).__qualname__
    required, optional = _ROLES[role]
    offered = []
    for method, rule in (required | optional).items():
        found: object = candidate if method == "__call__" else getattr(candidate, method, None)
        if found is None and method in optional:
            continue
        can_be_called: bool = callable(found)
        if not can_be_called:
            missing = "cannot be called" if method == "__call__" else f"has no method `{method}`"
            raise TypeError(f"{wanted}: {shown} {missing}")
        wrong = _misfit(found, rule)
        if wrong is not None:
            raise TypeError(f"{wanted}: `{getattr(found, '__qualname__', shown)}` {wrong}")
        offered.append(method)
    return offered


def _misfit(found: object, rule: Rule) -> str | None:
    function, given = found, rule.arguments
    if not isinstance(function, (FunctionType, MethodType)):
        # An object whose class says how it is called: look there.
        function = getattr(function, "__call__", None)  # noqa: B004
    if isinstance(function, MethodType):
        function, given = function.__func__, given + 1
    # Something that is not written in Python, or binds in a way of its own: only the call can tell.
    return misfit(function, rule, given) if isinstance(function, FunctionType) else None
