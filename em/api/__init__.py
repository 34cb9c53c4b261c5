"""Talking to servers: one client, its rate limit, batches, prices, costs and the lifetimes of models."""
