"""The wire peer: a process inside a guest network (process.py and what it is made of) and its client (client.py)."""
