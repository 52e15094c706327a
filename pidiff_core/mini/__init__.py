"""The embedded default: a small world of drawn people, its models and its judge."""
