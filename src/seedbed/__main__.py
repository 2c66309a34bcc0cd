"""`python -m seedbed` is the command line; so is `torchrun -m seedbed`."""

from seedbed.cli import main

if __name__ == "__main__":
    main()
