"""Checks of em's GPU paths, with random models of real shapes: no network and no weights are needed."""
