"""Generate data sets with a model: read sources and prompts, call the model, accept rows and write their card."""
