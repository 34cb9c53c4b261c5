"""The command line: Hydra for runs, and the small tools of `em`."""
