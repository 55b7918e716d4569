"""Live mode: frames over a WebSocket, each answered with the frame four times larger.

HTTP keeps order, windows and limits; a worker decodes (in a child), upscales and encodes. The two
are joined by a local socket over which whole frames cross. ``docs/api-live.md`` is the protocol.
"""
