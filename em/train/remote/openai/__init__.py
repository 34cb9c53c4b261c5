"""Fine-tune by OpenAI, or by a server that speaks its protocol."""
