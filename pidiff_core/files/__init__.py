"""Every container: safetensors, pickles, networks, adapters; strict loading."""
