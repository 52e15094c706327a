"""Face-parsing networks: which pixels of a crop are the person."""
