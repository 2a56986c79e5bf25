"""Names of channels: a small grammar, the same in every language."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshos.channel import ChannelName
from meshos.errors import ChannelNameError
from records import BAD_TEXTS, evaluated, twins

SEGMENT = r"(?!\.{1,2}(?:/|\Z))[a-z0-9_.-]+"
GRAMMAR = re.compile(rf"{SEGMENT}(?:/{SEGMENT})*\Z")

segments = st.from_regex(r"\A[a-z0-9_.-]{1,12}\Z").filter(lambda text: text not in {".", ".."})
names = st.lists(segments, min_size=1, max_size=6).map("/".join)


@given(names)
def test_every_name_in_grammar_is_taken(text: str) -> None:
    name = ChannelName(text)

    assert name == text
    assert isinstance(name, str)
    assert hash(name) == hash(text)


@given(st.text("ab./-_A \n\u00e9", max_size=12) | st.text(max_size=300))
def test_grammar_is_that_of_a_regular_expression(text: str) -> None:
    good = GRAMMAR.match(text) is not None and len(text.encode("utf-8", "surrogatepass")) <= 255

    if good:
        assert ChannelName(text) == text
    else:
        with pytest.raises(ChannelNameError) as raised:
            ChannelName(text)
        assert raised.value.name == text


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        ("a" * 256, "too_long"),
        ("\u00e9" * 128, "too_long"),
        ("A", "invalid_char"),
        ("a b", "invalid_char"),
        ("a\n", "invalid_char"),
        ("a\0", "invalid_char"),
        ("a\\b", "invalid_char"),
        ("\u00e9", "invalid_char"),
        ("\ud800", "invalid_char"),
        ("/", "invalid_segment"),
        ("/a", "invalid_segment"),
        ("a/", "invalid_segment"),
        ("a//b", "invalid_segment"),
        (".", "invalid_segment"),
        ("a/../b", "invalid_segment"),
    ],
)
def test_error_says_what_is_wrong(text: str, kind: str) -> None:
    with pytest.raises(ChannelNameError) as raised:
        ChannelName(text)

    assert raised.value.kind == kind
    assert raised.value.name == text
    assert isinstance(raised.value, ValueError)


def test_longest_name_has_255_bytes() -> None:
    assert len(ChannelName("a" * 255)) == 255


def test_prefix_is_of_whole_segments() -> None:
    name = ChannelName("a/b")

    assert name.is_prefix_of(ChannelName("a/b"))
    assert name.is_prefix_of(ChannelName("a/b/c"))
    assert not name.is_prefix_of(ChannelName("a/bc"))
    assert not name.is_prefix_of(ChannelName("a"))


@given(names, names)
def test_prefix_agrees_with_lists_of_segments(first: str, second: str) -> None:
    head, whole = first.split("/"), second.split("/")

    assert ChannelName(first).is_prefix_of(ChannelName(second)) == (whole[: len(head)] == head)


def test_name_is_shown_copied_and_pickled() -> None:
    name = ChannelName("sensors/room-1")

    assert str(name) == f"{name}" == "sensors/room-1"
    assert repr(name) == "ChannelName('sensors/room-1')"
    assert evaluated(repr(name)) == name
    for twin in twins(name):
        assert type(twin) is ChannelName
        assert twin == name


def test_name_takes_no_attributes() -> None:
    name = ChannelName("a")

    with pytest.raises(AttributeError):
        name.another = 1  # type: ignore[attr-defined]
    assert not hasattr(name, "__dict__")


class Disguised(str):
    """Reads as one text, and converts to another."""

    __slots__ = ()

    def __str__(self) -> str:
        return "NOT A NAME"


def test_what_is_checked_is_what_is_kept() -> None:
    assert ChannelName(Disguised("a/b")) == "a/b"


def test_wrong_types_are_refused() -> None:
    for value, expected in BAD_TEXTS:
        with pytest.raises(expected if expected is TypeError else ChannelNameError):
            ChannelName(value)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ChannelName(name="a")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        ChannelName("a").is_prefix_of(b"a")  # type: ignore[arg-type]
    with pytest.raises(ChannelNameError):
        ChannelName("a").is_prefix_of("A")
