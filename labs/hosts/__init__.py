"""What the observers of hosts behind a shell share, whatever hypervisor runs there."""
