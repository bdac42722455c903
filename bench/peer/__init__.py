"""What bench/peers.py is made of: their environment, their models, and a process for each."""
