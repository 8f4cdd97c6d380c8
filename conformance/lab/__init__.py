"""Labs: the inventory of hosts, networks, storage and targets; leases; the ledger and its sweep."""
