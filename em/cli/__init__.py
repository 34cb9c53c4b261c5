"""The command line: runs, which Hydra configures, and the small tools of `em`."""
