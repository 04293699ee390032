"""One table of rows in RAM in front of LMDB: how wide a row is, how many fit, where each lies."""
