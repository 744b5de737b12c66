"""The command line: `python -m fatezero_ext COMMAND`."""

from __future__ import annotations

import sys

from .cli.main import main, stop_on_terminate

if __name__ == "__main__":
    stop_on_terminate()
    sys.exit(main())
