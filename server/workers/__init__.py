"""Engine workers: supervised processes that hold an engine and work on spooled files.

HTTP sends a task and hears progress as JSON lines over a socket pair; frames never cross.
"""
