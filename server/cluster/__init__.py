"""Several machines by way of Ray (extra ``cluster``), which is imported when it is used."""
