"""Have a model write a data set from texts or questions of yours: `python generate.py --help`."""

from em.cli.main import start

if __name__ == "__main__":
    start("generate")
