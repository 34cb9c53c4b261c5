"""Tools that check em from outside: its results on a fixed set of small runs, and records of older code."""
