"""``python -m aimbench``."""

from aimbench.cli import main

main()
