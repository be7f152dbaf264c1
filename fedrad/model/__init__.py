"""The model: a frozen base model, its LoRA adapter and head, and the trained adapter in and out of PEFT's format."""
