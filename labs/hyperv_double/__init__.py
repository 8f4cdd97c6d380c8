"""A double of a Hyper-V host: a WinRM endpoint of our own before a model of the host. Never evidence of Hyper-V itself."""
