"""Training: plan stages (`stages`), find or train their models (`find_or_train`, `trained`), `local` or `remote`."""
