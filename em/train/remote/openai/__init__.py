"""Fine-tuning by OpenAI, or a server that speaks its protocol: nothing outside needs it but the choice of a service."""
