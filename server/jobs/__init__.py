"""Jobs: long videos that survive a restart. Rows in SQLite, bytes in one folder per job."""
