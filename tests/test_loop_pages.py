"""The pages on the behaviour loop name what there is: every option, event, action and callback, and nothing else."""

import inspect
import re
import typing

import pytest

from meshos import MeshOsRuntime, _callbacks, dispatch, events
from meshos.runtime import (
    BackoffConfig,
    BackpressureConfig,
    LocalityConfig,
    MaintenanceConfig,
    MeshOsConfig,
    MeshOsRuntimeBuilder,
    SchedulerConfig,
)
from pages import names, read, section, table

CONFIGS = [MeshOsConfig, BackpressureConfig, LocalityConfig, MaintenanceConfig, SchedulerConfig, BackoffConfig]


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_field_of_a_configuration_is_listed(config: type) -> None:
    text = section(read("docs/runtime.md"), "Configuration")
    _, found, after = text.partition(f"`{config.__name__}`:\n")
    assert found
    listed = [name for row in table(after).rows for name in names(row["field"])]
    assert len(listed) == len(set(listed))
    assert set(listed) == public(config)


def test_every_option_of_the_start_has_its_constructor() -> None:
    text = section(read("docs/runtime.md"), "Options of the start")
    options = set(inspect.signature(MeshOsRuntime.start).parameters)
    assert set(re.findall(r"`(\w+)=`", text)) == options - {"config", "dispatcher"}
    methods = {name for name in public(MeshOsRuntimeBuilder) if name.startswith("with_")}
    assert set(re.findall(r"`(with_\w+)`", text)) == methods


def test_every_constructor_of_rust_has_its_option() -> None:
    rows = table(section(read("docs/runtime.md"), "Options of the start")).rows
    listed = [row["constructor in Rust"].strip("`") for row in rows]
    assert listed == [
        "start",
        "start_with_probes",
        "start_full",
        "start_with_daemon_registry",
        "start_with_options",
        "start_with_all",
        "start_with_audit_chain",
        "start_with_chains",
        "start_with_all_chains",
        "start_with_full_extensions",
        "MeshOsRuntimeBuilder::build_and_start",
    ]


def test_every_event_is_listed() -> None:
    rows = table(section(read("docs/runtime.md"), "Saying what is wanted")).rows
    listed = {name.partition("(")[0] for row in rows for name in names(row["event"])}
    assert listed == {event.__name__ for event in typing.get_args(events.MeshOsEvent)}


def test_every_action_is_listed() -> None:
    rows = table(section(read("docs/dispatch.md"), "Actions")).rows
    listed = {name.partition("(")[0] for row in rows for name in names(row["action"])}
    assert listed == {action.__name__ for action in typing.get_args(dispatch.MeshOsAction)}


def test_every_command_is_listed() -> None:
    rows = table(section(read("docs/maintenance.md"), "Commands")).rows
    listed = {name.partition("(")[0] for row in rows for name in names(row["command"])}
    assert listed == {command.__name__ for command in typing.get_args(events.AdminEvent)}


def test_every_callback_is_listed() -> None:
    rows = table(section(read("docs/callbacks.md"), "All of them")).rows
    listed = {name.partition(".")[0] for row in rows for name in names(row["callback"])}
    assert set(_callbacks._ROLES) <= listed
