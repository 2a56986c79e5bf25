"""Names of channels."""

from meshos._core import ChannelName as ChannelName

__all__ = ["ChannelName"]
