"""Read the files of runs: manifests, answers, verdicts, scores, losses."""
