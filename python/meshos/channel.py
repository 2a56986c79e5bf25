"""Names of channels, who may use them, and the tokens that say so."""

from enum import StrEnum
from typing import Self, final

from meshos import _core
from meshos._core import ChannelPolicy as ChannelPolicy
from meshos._core import PermissionToken as PermissionToken

__all__ = ["ChannelName", "ChannelPolicy", "PermissionToken", "Right"]


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


@final
class Right(StrEnum):
    """What a token permits on its channel."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    ADMIN = "admin"
    DELEGATE = "delegate"
