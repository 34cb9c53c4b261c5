"""Tables and sections of the report, made from what was read."""
