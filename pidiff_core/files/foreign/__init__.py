"""Other projects' checkpoint layouts. Nothing else knows their key names."""
