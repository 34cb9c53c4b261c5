"""Training: what is to be trained and by what name it is remembered (`stages`), and the training itself (`lora`)."""
