"""Where versions live: folders, manifests and their integrity."""
