"""Talking to servers: client, rate limit, pool of calls, batches, prices, costs and the lifetimes of models."""
