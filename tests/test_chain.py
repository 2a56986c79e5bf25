"""The chain builder: the same digests as the published formulas, and a head that is all one needs to continue."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from meshos.chain import CausalChainBuilder, CausalLink
from meshos.errors import BrokenLink
from records import ALICE, BAD_BYTES, BAD_BYTES_32, BAD_ENTITIES, BAD_INTS, BOB, check_refused

steps = st.lists(st.tuples(st.binary(max_size=100), st.integers(0, reference.U64_MAX)), max_size=20)


@given(steps)
def test_chain_agrees_with_the_published_formulas(appended: list[tuple[bytes, int]]) -> None:
    ours, theirs = CausalChainBuilder(ALICE.entity_id), reference.Chain(ALICE.entity_id)

    events = [ours.append(payload, horizon) for payload, horizon in appended]
    links = [theirs.append(payload, horizon) for payload, horizon in appended]

    assert [event.link.to_bytes() for event in events] == links
    assert [event.payload for event in events] == [payload for payload, _ in appended]
    assert ours.sequence == len(appended)
    assert ours.head_digest == theirs.digest
    assert ours.origin_hash == ALICE.origin_hash
    assert ours.entity_id == ALICE.entity_id


def test_genesis_is_virtual() -> None:
    chain = CausalChainBuilder(ALICE.entity_id)

    assert chain.sequence == 0
    assert chain.head_link == CausalLink(ALICE.origin_hash, 0, 0, 0)
    assert chain.head_digest == reference.genesis(ALICE.entity_id)


@given(steps, steps)
def test_chain_continues_from_its_head_alone(before: list[tuple[bytes, int]], after: list[tuple[bytes, int]]) -> None:
    whole = CausalChainBuilder(ALICE.entity_id)
    for payload, horizon in before:
        whole.append(payload, horizon)

    rest = CausalChainBuilder.from_head(ALICE.entity_id, whole.head_link, whole.head_digest)

    for payload, horizon in after:
        assert rest.append(payload, horizon) == whole.append(payload, horizon)
    assert rest.head_digest == whole.head_digest


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_payload_is_what_it_was_when_appended(form: type[bytes | bytearray | memoryview]) -> None:
    source = bytearray(b"before")
    payload = form(source)
    chain = CausalChainBuilder(ALICE.entity_id)

    event = chain.append(payload)
    source[:] = b"after!"

    assert event.payload == b"before"
    assert chain.head_digest == reference.event_digest(
        reference.genesis(ALICE.entity_id), event.link.to_bytes(), b"before"
    )


def test_bytes_are_passed_on_without_a_copy() -> None:
    payload = bytes(100)

    assert CausalChainBuilder(ALICE.entity_id).append(payload).payload is payload


def test_payload_that_is_hashed_beside_other_threads_gives_the_same_digest() -> None:
    payload = bytes(range(256)) * 4096
    ours, theirs = CausalChainBuilder(ALICE.entity_id), reference.Chain(ALICE.entity_id)

    ours.append(payload)
    theirs.append(payload)

    assert ours.head_digest == theirs.digest


def test_threads_append_one_after_another() -> None:
    chain = CausalChainBuilder(ALICE.entity_id)
    payloads = [bytes([number]) * (70_000 if number % 10 == 0 else 7) for number in range(200)]

    with ThreadPoolExecutor(4) as pool:
        events = sorted(pool.map(chain.append, payloads), key=lambda event: event.sequence)

    assert [event.sequence for event in events] == list(range(1, 201))
    again = CausalChainBuilder(ALICE.entity_id)
    assert [again.append(event.payload).link for event in events] == [event.link for event in events]


def test_copies_go_their_own_way() -> None:
    chain = CausalChainBuilder(ALICE.entity_id)
    chain.append(b"common")

    for twin in (copy.copy(chain), copy.deepcopy(chain), pickle.loads(pickle.dumps(chain))):
        twin.append(b"its own")
        assert chain.sequence == 1
        assert twin.sequence == 2
        assert twin.entity_id == ALICE.entity_id


def test_repr_names_the_chain_and_its_length() -> None:
    assert repr(CausalChainBuilder(ALICE.entity_id)) == f"<CausalChainBuilder {ALICE.origin_hash:016x} at 0>"


def test_head_of_another_entity_is_refused() -> None:
    head = CausalLink(BOB.origin_hash, 0, 5, 0)

    with pytest.raises(BrokenLink) as raised:
        CausalChainBuilder.from_head(ALICE.entity_id, head, bytes(32))

    error = raised.value
    assert error.kind == "wrong_origin"
    assert (error.origin, error.sequence) == (ALICE.origin_hash, 5)
    assert (error.expected, error.found) == (ALICE.origin_hash, BOB.origin_hash)


def test_chain_that_used_its_last_number_appends_no_more() -> None:
    head = CausalLink(ALICE.origin_hash, 0, reference.U64_MAX - 1, 0)
    chain = CausalChainBuilder.from_head(ALICE.entity_id, head, bytes(32))
    last = chain.append(b"last")

    with pytest.raises(BrokenLink):
        chain.append(b"one more")

    assert chain.head_link == last.link
    assert chain.sequence == reference.U64_MAX


def test_bad_arguments_are_refused() -> None:
    chain = CausalChainBuilder(ALICE.entity_id)
    head = {"entity_id": ALICE.entity_id, "head": chain.head_link, "head_digest": chain.head_digest}
    wrong_heads = [(value, TypeError) for value in (None, chain.head_link.to_bytes(), 3)]

    check_refused(CausalChainBuilder, {"entity_id": ALICE.entity_id}, {"entity_id": BAD_ENTITIES})
    check_refused(
        CausalChainBuilder.from_head,
        head,
        {"entity_id": BAD_ENTITIES, "head": wrong_heads, "head_digest": BAD_BYTES_32},
    )
    check_refused(
        chain.append,
        {"payload": b"", "horizon_encoded": 0},
        {"payload": BAD_BYTES, "horizon_encoded": BAD_INTS},
    )
    assert chain.sequence == 1
