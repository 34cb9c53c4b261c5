"""Read what runs left: manifests, answers, verdicts, calls."""
