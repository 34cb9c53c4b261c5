"""The distilled judge: a small encoder that predicts the scores of gpt-4o on a CPU, and how it is made and measured."""
