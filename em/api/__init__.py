"""Calls of model servers: client, rate limit, pool of calls, batches, prices, costs and shutdown dates."""
