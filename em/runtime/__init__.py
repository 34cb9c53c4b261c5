"""What a run stands on: memory on disk, files, its manifest, child processes, GPUs, keys."""
