"""`python -m plop_lora` is the command `plop`."""

from plop_lora.cli import main

main()
