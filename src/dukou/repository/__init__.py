"""Where versions live: folders, manifests and their integrity, and how what comes to them is noticed."""
