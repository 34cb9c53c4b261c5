"""Training in child processes of our own: TRL, PEFT and Accelerate."""
