"""`python -m unnoticed`: the command line."""

from unnoticed.experiments.cli import process

if __name__ == "__main__":
    process()
