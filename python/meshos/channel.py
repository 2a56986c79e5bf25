"""Names of channels."""

from typing import Self, final

from meshos import _core

__all__ = ["ChannelName"]


# In Python, since the stable ABI has no native subclass of `str`.
@final
class ChannelName(str):
    """A checked name: 1 to 255 bytes of `a-z 0-9 - _ . /`, no empty, `.` or `..` segment."""

    __slots__ = ()

    def __new__(cls, name: str, /) -> Self:
        """Check a name.

        Raises:
            ChannelNameError: It is out of grammar.
        """
        return str.__new__(cls, _core.channel_name_text(name))

    def is_prefix_of(self, other: str) -> bool:
        """Whether `other` is this name or lies below it, by whole segments."""
        return _core.channel_name_is_prefix_of(self, other)

    def __repr__(self) -> str:
        return f"ChannelName({str.__repr__(self)})"
