"""Evaluate a base model, a trained one or an adapter: `python evaluate.py --help`."""

from em.cli.hydra import main

if __name__ == "__main__":
    main("evaluate")
