"""Run the command line: ``python -m kernelpot.cli``."""

import sys

from kernelpot.cli.verbs import main

sys.exit(main())
