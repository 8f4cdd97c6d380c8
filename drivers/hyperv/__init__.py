"""The Hyper-V driver: Windows hosts through WinRM and the Hyper-V PowerShell module."""
