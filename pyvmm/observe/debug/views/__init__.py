"""What commands show: functions from states to lines of text, and to the same as plain data."""
