"""Convolutions in C for the CPU, and the library that `setup.py` makes of them."""
