"""What bench/quality.py is made of: the texts, every quantizer in a process of its own, and one judge."""
