"""ComfyUI's side of the pack: wire types, folders, model management, mini's models."""
