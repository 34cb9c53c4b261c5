"""Train a model, evaluate it and write the report: `python train.py --help`."""

from em.cli.main import start

if __name__ == "__main__":
    start("train")
