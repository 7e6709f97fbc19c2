"""Pure decisions about versions: which should be served."""
