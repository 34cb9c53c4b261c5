"""Models: base weights, chat templates, devices, and the names of models on servers."""
