"""The command line."""

from kernelpot.cli.verbs import main

__all__ = ["main"]
