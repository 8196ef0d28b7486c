"""`python -m unnoticed`: the command line."""

from unnoticed.experiments.cli import main

if __name__ == "__main__":
    main(prog_name="unnoticed")
