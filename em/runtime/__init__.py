"""Services that every run uses: the store of model calls, files, the manifest, child processes, GPUs, keys."""
