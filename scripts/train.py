"""The same as ``lvmzoo train``: ``python scripts/train.py model=lds seed=1``."""

from __future__ import annotations

import sys

from lvmzoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
