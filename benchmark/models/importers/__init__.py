"""Public checkpoints made into families of safetensors: read without running them, checked, hashed."""
