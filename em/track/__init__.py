"""Copy a run's folder to Weights & Biases, under metric names that are the same for every run."""
