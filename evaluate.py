"""Evaluate a base model, a trained one or an adapter: `python evaluate.py --help`."""

from em.cli.main import start

if __name__ == "__main__":
    start("evaluate")
