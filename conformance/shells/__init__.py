"""Commands on a host: here, in namespaces, over SSH. Observers, labs and drivers each open their own."""
