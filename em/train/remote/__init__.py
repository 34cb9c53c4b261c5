"""Fine-tune by a service: the interface of all services (`service`), OpenAI's protocol (`openai`), and Tinker."""
