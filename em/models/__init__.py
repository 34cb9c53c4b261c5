"""Models: base weights, chat templates, devices, and the names that servers give them."""
