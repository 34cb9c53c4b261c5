"""Recording a run with Weights & Biases: what its folder holds, under names that are the same in every run."""
