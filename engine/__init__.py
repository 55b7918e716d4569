"""Frames in, frames x4 out: the network, its ONNX export, plans and backends.

Knows nothing of files, codecs, HTTP or clocks. Imports neither ``trainer`` nor ``server``.
"""
