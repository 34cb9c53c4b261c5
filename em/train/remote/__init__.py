"""Fine-tuning by a service: what any service is asked (`service`), OpenAI's protocol (`openai`), and Tinker."""
