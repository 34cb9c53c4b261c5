"""Training: stages (`stages`), their models (`find_or_train`, `trained`), and who trains: `local` or `remote`."""
