"""The product: videos and pictures over HTTP and the command line. Never imports ``trainer``."""
