"""What the nested labs share: whether KVM works here, guest networks, processes found by a mark, a cell held alone."""
