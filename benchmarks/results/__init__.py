"""The result page: every policy against the bound and the rivals, on work that nothing was tuned on."""
