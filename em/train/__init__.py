"""Training: stages and fingerprints (`stages`), and who trains: `local`, children of ours, or `remote`, services."""
