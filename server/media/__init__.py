"""Containers, codecs and clocks: PyAV, pts and time_base live here and nowhere else."""
