"""One module per runtime behind the two small Protocols of ``engine.backends.base``."""
