"""The version, apart from everything else so that any room can write it down."""

__version__ = "0.1.0"
