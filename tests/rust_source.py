"""Reads Rust source as far as the tests of the architecture need it."""

import re
from collections.abc import Iterator

# What hides braces and paths; strings are emptied so that their braces do not count.
HIDDEN = re.compile(
    r"""
    //[^\n]*
    | /\*.*?\*/
    | \bb?r(?P<hashes>\#*)".*?"(?P=hashes)
    | \bb?"(?:\\.|[^"\\])*"
    | "(?:\\.|[^"\\])*"
    | '(?:\\.[^']*|[^\\'])'
    """,
    re.VERBOSE | re.DOTALL,
)
TEST_ATTRIBUTE = re.compile(r"#\[cfg\((?:all\()?test\b[^\]]*\]")
OPENING, CLOSING = "([{", ")]}"


def visible(text: str) -> str:
    """Return the code alone: no comments, no contents of strings, no items that exist only in tests."""
    text = HIDDEN.sub(lambda found: '""' if found[0].lstrip("br#").startswith('"') else " ", text)
    while found := TEST_ATTRIBUTE.search(text):
        text = text[: found.start()] + text[item_end(text, found.end()) :]
    return text


def item_end(text: str, start: int) -> int:
    """Return where the item ends that begins at `start`: after its block, or after its semicolon."""
    depth = 0
    for position in range(start, len(text)):
        character = text[position]
        if character in OPENING:
            depth += 1
        elif character in CLOSING:
            depth -= 1
            if depth == 0 and character == "}":
                return position + 1
        elif character == ";" and depth == 0:
            return position + 1
    return len(text)


def group_names(text: str, start: int) -> Iterator[str]:
    """Yield the first name of each path in the `{...}` that opens at `start`."""
    depth, expects = 0, True
    for token in re.finditer(r"\w+|[{},]|::|\*", text[start:]):
        word = token[0]
        if word == "{":
            depth += 1
            expects = depth == 1
        elif word == "}":
            depth -= 1
            if depth == 0:
                return
        elif word == ",":
            expects = depth == 1
        elif expects:
            yield word
            expects = False


def paths(text: str, prefix: str) -> Iterator[str]:
    """Yield the first name after each `prefix::` of a visible text; macros, `prefix::name!`, are left out."""
    for found in re.finditer(rf"(?<![\w:]){prefix}::\s*(?:(\w+)(!?)|(\{{)|\*)", text):
        if found[3]:
            yield from group_names(text, found.start(3))
        elif found[1] and not found[2]:
            yield found[1]
        elif not found[1]:
            yield "*"
