"""Train a model, evaluate it and write the report: `python train.py --help`."""

from em.cli.hydra import main

if __name__ == "__main__":
    main("train")
