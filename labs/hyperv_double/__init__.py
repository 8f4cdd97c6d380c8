"""A double of a Hyper-V host: a WinRM endpoint of our own before a model of it. Never evidence of Hyper-V itself."""
