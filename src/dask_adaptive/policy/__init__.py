"""When and how many: pure functions of what is and what was."""
