"""What `docs/authority.md` says of bytes, tags, errors and bounds is so."""

import re
from datetime import timedelta

import pytest

import envelopes
from meshos import _keyfile, errors
from meshos.operator import AdminVerifier, OperatorKey, OperatorRegistry, Role
from pages import Table, read, section, table

PAGE = read("docs/authority.md")


def tables(title: str) -> list[Table]:
    """Every table of a section."""
    parts = re.split(r"\n\n(?=\| )", section(PAGE, title))[1:]
    return [table(part) for part in parts]


def tags(of: Table, column: str) -> dict[str, int]:
    return {row[column].strip("`"): int(row["tag"]) for row in of.rows}


def test_tags_are_those_of_the_bytes() -> None:
    _, events, actions = tables("What is signed")
    _, warnings = tables("The preview")

    assert tags(events, "ordinary command") == envelopes.EVENTS
    assert tags(actions, "break-glass action") == envelopes.ACTIONS
    assert tags(warnings, "warning") == envelopes.WARNINGS
    counts = {row["warning"].strip("`"): len([one for one in row["ids"].split(", ") if one]) for row in warnings.rows}
    assert counts == {kind: len(ids) for kind, ids in envelopes.ice_vectors()["everything"].blast.warnings}


def test_sizes_before_the_order_are_those_of_the_bytes() -> None:
    layout = tables("What is signed")[0]
    for kind, other, envelope in (
        ("ordinary", "break glass", envelopes.admin_vectors()["cordon"]),
        ("break glass", "ordinary", envelopes.ice_vectors()["thaw_cluster"]),
    ):
        sizes = [int(row["size"]) for row in layout.rows if row["in"] != other and row["size"].isdigit()]
        order = envelopes.event_bytes(envelope.event) if isinstance(envelope, envelopes.Admin) else b"\2"
        assert envelope.signing_bytes()[sum(sizes) :].startswith(order), kind


def test_sizes_of_a_key_file_are_those_of_the_bytes() -> None:
    (layout,) = tables("Keys")
    sizes = {True: 0, False: 0}
    for row in layout.rows:
        field = row["field of a key file, version 1"]
        for sealed in sizes:
            if not field.startswith("open:" if sealed else "sealed:"):
                sizes[sealed] += int(row["size"])

    assert sizes == {True: _keyfile.FILE_BYTES[_keyfile.SEALED], False: _keyfile.FILE_BYTES[_keyfile.PLAIN]}


def test_every_refusal_is_named() -> None:
    (steps, _) = tables("What is checked")
    named = {row["refused with"].strip("`") for row in steps.rows} | set(re.findall(r"\(`(\w+)`\)", PAGE))
    of_the_loop = {"NoVerifier", "AuditRequired", "BundleTooLarge", "IceRequiresBundle"}

    assert all(issubclass(getattr(errors, name), errors.VerifyError) for name in named & set(errors.__all__))
    assert {cls.__name__ for cls in errors.VerifyError.__subclasses__()} - of_the_loop <= named


def test_bounds_are_those_of_a_verifier() -> None:
    operators = OperatorRegistry()
    operators.add(OperatorKey.generate().verify_key, name="a", roles=[Role.ICE])
    verifier = AdminVerifier(operators, cluster_id=b"c", ice_threshold=1)

    assert verifier.future_skew == timedelta(seconds=30)
    assert "`future_skew` (30 s)" in PAGE
    assert verifier.freshness_window == timedelta(minutes=5)
    assert "`freshness_window` (5 min)" in PAGE


@pytest.mark.parametrize("role", Role)
def test_every_role_is_named(role: Role) -> None:
    (roles,) = tables("Operators")

    assert f"`Role.{role.name}`" in {row["role"] for row in roles.rows}
