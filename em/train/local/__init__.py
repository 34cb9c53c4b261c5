"""Training on this machine, in child processes that use TRL, PEFT and Accelerate."""
