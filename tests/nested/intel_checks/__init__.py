"""Programs for the inside of host C. There is no pytest, construct or capstone there, and Python is a hundred times slower."""
