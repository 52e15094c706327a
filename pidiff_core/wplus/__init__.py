"""W+ codes as values and as files; averages, directions, edits."""
