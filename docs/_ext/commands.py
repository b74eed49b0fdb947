"""The parser of the command, as its page shows it."""

from __future__ import annotations

import argparse

from kernelpot.cli.arguments import EXAMPLES, UNITS, build_parser


def parser() -> argparse.ArgumentParser:
    """The parser, with the example of each verb as a block of code."""
    found, units = build_parser(), " ".join(UNITS.split())
    for action in found._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, verb in action.choices.items():
                if name in EXAMPLES:
                    verb.epilog = f"{units}\n\nExample::\n\n    {EXAMPLES[name]}\n"
    return found
