"""Have a model write a data set from texts or questions of yours: `python generate.py --help`."""

from em.cli.hydra import main

if __name__ == "__main__":
    main("generate")
