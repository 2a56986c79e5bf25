"""Dispatchers: what one is, what it may answer, and the one for tests."""

import pickle
from datetime import timedelta

import pytest

from meshos.control import ControlSink
from meshos.dispatch import (
    ActionDispatcher,
    BackpressureChange,
    DispatchError,
    DropReplica,
    LoggingDispatcher,
    MeshOsAction,
)

SECOND = timedelta(seconds=1)


def test_an_answer_says_why_and_when() -> None:
    dropped, again = DispatchError.drop("no room"), DispatchError.retry("not yet", SECOND)

    assert (dropped.reason, dropped.retry_after, str(dropped)) == ("no room", None, "no room")
    assert (again.reason, again.retry_after, str(again)) == ("not yet", SECOND, "not yet")
    for error in (dropped, again):
        twin = pickle.loads(pickle.dumps(error))
        assert (type(twin), twin.args, vars(twin)) == (DispatchError, error.args, vars(error))


def test_defaults_of_a_dispatcher() -> None:
    class Silent(ActionDispatcher):
        def dispatch(self, action: MeshOsAction, /) -> None: ...

    silent = Silent()

    assert silent.on_cluster_backpressure(BackpressureChange(asserted=True, level=0.5)) is None
    assert silent.daemon_registry() is None
    assert silent.node_id() is None


def test_what_is_abstract_must_be_overridden() -> None:
    for abstract in (ActionDispatcher, ControlSink):
        with pytest.raises(TypeError, match="abstract"):
            abstract()  # type: ignore[abstract]


def test_a_logging_dispatcher_remembers_the_newest_actions() -> None:
    dispatcher = LoggingDispatcher()
    for chain in range(4100):
        dispatcher.dispatch(DropReplica(chain))

    assert dispatcher.actions() == tuple(DropReplica(chain) for chain in range(4, 4100))


def test_a_logging_dispatcher_fails_as_often_as_it_is_told() -> None:
    dispatcher = LoggingDispatcher()
    first, second = DispatchError.drop("first"), DispatchError.retry("second", SECOND)
    dispatcher.fail_next(first)
    dispatcher.fail_next(second)

    for error in (first, second):
        with pytest.raises(DispatchError) as caught:
            dispatcher.dispatch(DropReplica(1))
        assert caught.value is error
    dispatcher.dispatch(DropReplica(1))
    assert len(dispatcher.actions()) == 3


def test_a_logging_dispatcher_remembers_edges() -> None:
    dispatcher = LoggingDispatcher()
    edges = (BackpressureChange(asserted=True, level=1.0), BackpressureChange(asserted=False, level=0.1))
    for edge in edges:
        dispatcher.on_cluster_backpressure(edge)

    assert dispatcher.backpressure_changes() == edges
